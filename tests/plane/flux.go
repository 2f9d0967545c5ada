package main

import (
	"fmt"
	"os"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/ext"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kstatus "sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/yaml"
)

// healthCheckExpr is one entry of a Flux Kustomization's spec.healthCheckExprs.
type healthCheckExpr struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	InProgress string `json:"inProgress"`
	Failed     string `json:"failed"`
	Current    string `json:"current"`
}

type fluxChecks []healthCheckExpr

func readFlux(path string) (fluxChecks, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var kustomization struct {
		Spec struct {
			HealthCheckExprs fluxChecks `json:"healthCheckExprs"`
		} `json:"spec"`
	}
	return kustomization.Spec.HealthCheckExprs, yaml.Unmarshal(data, &kustomization)
}

// judge follows RFC 0009 of Flux: a generation that lags is in progress, then
// inProgress, failed and current are asked in this order, and what none of them
// claims is in progress.
func (f fluxChecks) judge(object *unstructured.Unstructured) (any, error) {
	observed, there, err := unstructured.NestedInt64(object.Object, "status", "observedGeneration")
	if err != nil {
		return nil, err
	}
	if there && observed != object.GetGeneration() {
		return verdict{Status: kstatus.InProgressStatus.String()}, nil
	}
	for _, check := range f {
		if check.APIVersion == object.GetAPIVersion() && check.Kind == object.GetKind() {
			return check.judge(object)
		}
	}
	return nil, fmt.Errorf("no expressions for %s", object.GroupVersionKind())
}

func (c *healthCheckExpr) judge(object *unstructured.Unstructured) (any, error) {
	for _, one := range []struct {
		text   string
		status kstatus.Status
	}{
		{c.InProgress, kstatus.InProgressStatus},
		{c.Failed, kstatus.FailedStatus},
		{c.Current, kstatus.CurrentStatus},
	} {
		if one.text == "" {
			continue
		}
		holds, err := holds(one.text, object.Object)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.text, err)
		}
		if holds {
			return verdict{Status: one.status.String()}, nil
		}
	}
	return verdict{Status: kstatus.InProgressStatus.String()}, nil
}

// holds evaluates an expression as Flux does: parsed, not type-checked, since
// the top-level fields are not declared.
func holds(text string, object map[string]any) (bool, error) {
	env, err := cel.NewEnv(
		cel.HomogeneousAggregateLiterals(),
		cel.EagerlyValidateDeclarations(true),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.OptionalTypes(),
		ext.Strings(), ext.Sets(), ext.Encoders(),
	)
	if err != nil {
		return false, err
	}
	parsed, issues := env.Parse(text)
	if issues != nil && issues.Err() != nil {
		return false, issues.Err()
	}
	program, err := env.Program(parsed)
	if err != nil {
		return false, err
	}
	value, _, err := program.Eval(object)
	if err != nil {
		return false, err
	}
	truth, isBool := value.Value().(bool)
	if !isBool {
		return false, fmt.Errorf("is %v, not true or false", value.Value())
	}
	return truth, nil
}
