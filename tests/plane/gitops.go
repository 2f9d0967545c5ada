package main

import (
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kstatus "sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

const gitopsUsage = `usage: testplane gitops kstatus
       testplane gitops argocd-health CONFIGMAP
       testplane gitops argocd-actions CONFIGMAP
       testplane gitops argocd-action CONFIGMAP ACTION
       testplane gitops flux KUSTOMIZATION
reads a JSON array of objects and prints the array of what the tool makes of each`

// verdict is what a tool says of an object.
type verdict struct {
	Status  string `json:"status"`
	Message string `json:"message,omitempty"`
}

// judge is what a tool makes of one object.
type judge func(*unstructured.Unstructured) (any, error)

func gitops(args []string) int {
	if err := judgeAll(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func judgeAll(args []string) error {
	judge, err := newJudge(args)
	if err != nil {
		return err
	}
	var objects []json.RawMessage
	if err := json.NewDecoder(os.Stdin).Decode(&objects); err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	results := make([]any, 0, len(objects))
	for _, raw := range objects {
		// As tools hold objects: whole numbers are int64.
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(raw); err != nil {
			return err
		}
		result, err := judge(object)
		if err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
		results = append(results, result)
	}
	return json.NewEncoder(os.Stdout).Encode(results)
}

func newJudge(args []string) (judge, error) {
	switch {
	case len(args) == 1 && args[0] == "kstatus":
		return judgeByKstatus, nil
	case len(args) == 2 && args[0] == "argocd-health":
		cm, err := readArgoCD(args[1])
		return cm.health, err
	case len(args) == 2 && args[0] == "argocd-actions":
		cm, err := readArgoCD(args[1])
		return cm.discover, err
	case len(args) == 3 && args[0] == "argocd-action":
		cm, err := readArgoCD(args[1])
		return func(object *unstructured.Unstructured) (any, error) { return cm.act(object, args[2]) }, err
	case len(args) == 2 && args[0] == "flux":
		checks, err := readFlux(args[1])
		return checks.judge, err
	default:
		return nil, fmt.Errorf("%s", gitopsUsage)
	}
}

func judgeByKstatus(object *unstructured.Unstructured) (any, error) {
	result, err := kstatus.Compute(object)
	if err != nil {
		return nil, err
	}
	return verdict{result.Status.String(), result.Message}, nil
}
