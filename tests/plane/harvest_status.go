package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kstatus "sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// statusHarvestDir names the directory to which each plane, at its end, adds what
// kstatus makes of the statuses that were written on it.
const statusHarvestDir = "VAO_STATUS_HARVEST"

// statusesSeen is what one plane, or a whole test run, has seen.
type statusesSeen struct {
	// Counts are by kind, kstatus and Ready reason.
	Counts     map[string]int `json:"counts"`
	Violations []string       `json:"violations"`
}

// statusWrite is a line of the audit log, as far as it matters here.
type statusWrite struct {
	Stage string `json:"stage"`
	Verb  string `json:"verb"`
	User  struct {
		Username string `json:"username"`
	} `json:"user"`
	ObjectRef struct {
		Group       string `json:"apiGroup"`
		Subresource string `json:"subresource"`
	} `json:"objectRef"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
	ResponseObject json.RawMessage `json:"responseObject"`
}

// isOurs: written by an operator. Administrators who meddle with statuses log in
// by certificate.
func (w *statusWrite) isOurs() bool {
	return w.Stage == "ResponseComplete" && w.Verb == "update" &&
		w.ObjectRef.Group == "virtualaccounts.dev" && w.ObjectRef.Subresource == "status" &&
		w.ResponseStatus.Code == 200 && strings.HasPrefix(w.User.Username, "system:serviceaccount:")
}

func judgeStatuses(log io.Reader) (any, error) {
	seen := &statusesSeen{Counts: map[string]int{}}
	lines := bufio.NewReaderSize(log, 1<<16)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return seen, nil // a torn line at the end says nothing
		} else if err != nil {
			return nil, err
		}
		var write statusWrite
		// `stop kube-apiserver` may have torn a line.
		if json.Unmarshal(line, &write) != nil || !write.isOurs() {
			continue
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(write.ResponseObject); err != nil {
			return nil, fmt.Errorf("a status without its object: %w", err)
		}
		seen.add(object)
	}
}

func (s *statusesSeen) add(object *unstructured.Unstructured) {
	ready, _ := conditionOf(object, "Ready")
	got := "error"
	result, err := kstatus.Compute(object)
	if err == nil {
		got = result.Status.String()
	}
	s.Counts[fmt.Sprintf("%s %s %s", object.GetKind(), got, ready.Reason)]++
	for _, violation := range violations(object, got, err) {
		s.violate("%s %s/%s: %s", object.GetKind(), object.GetNamespace(), object.GetName(), violation)
	}
}

// maxViolations keep the report readable.
const maxViolations = 50

func (s *statusesSeen) violate(format string, args ...any) {
	if len(s.Violations) < maxViolations {
		s.Violations = append(s.Violations, fmt.Sprintf(format, args...))
	}
}

// condition is what we need of metav1.Condition.
type condition struct {
	Type, Status, Reason string
	ObservedGeneration   int64
}

func conditionsOf(object *unstructured.Unstructured) []condition {
	list, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	var all []condition
	for _, item := range list {
		fields, _ := item.(map[string]any)
		text := func(key string) string { value, _ := fields[key].(string); return value }
		generation, _ := fields["observedGeneration"].(int64)
		all = append(all, condition{text("type"), text("status"), text("reason"), generation})
	}
	return all
}

func conditionOf(object *unstructured.Unstructured, kind string) (condition, bool) {
	for _, c := range conditionsOf(object) {
		if c.Type == kind {
			return c, true
		}
	}
	return condition{}, false
}

// expectedBy is what a reason of Ready promises to those who read kstatus. What
// is not named goes by the condition's status: True is Current.
var expectedBy = map[string]kstatus.Status{
	"InvalidSpec":     kstatus.FailedStatus,
	"Expired":         kstatus.FailedStatus,
	"Issuing":         kstatus.InProgressStatus,
	"Delivering":      kstatus.InProgressStatus,
	"Revoked":         kstatus.InProgressStatus,
	"KeyMissing":      kstatus.InProgressStatus,
	"SecretNotOwned":  kstatus.InProgressStatus,
	"NotOurs":         kstatus.InProgressStatus,
	"NotAllowed":      kstatus.InProgressStatus,
	"TokenEnding":     kstatus.InProgressStatus,
	"Delivered":       kstatus.CurrentStatus,
	"DeliveryFailing": kstatus.CurrentStatus,
	"Disabled":        kstatus.CurrentStatus,
	"LedgerFull":      kstatus.CurrentStatus,
	"Checked":         kstatus.CurrentStatus,
}

func expected(object *unstructured.Unstructured, ready condition) kstatus.Status {
	observed, _, _ := unstructured.NestedInt64(object.Object, "status", "observedGeneration")
	switch {
	case object.GetDeletionTimestamp() != nil:
		return kstatus.TerminatingStatus
	case observed != object.GetGeneration():
		return kstatus.InProgressStatus
	}
	if status, known := expectedBy[ready.Reason]; known {
		return status
	}
	if ready.Status == "True" {
		return kstatus.CurrentStatus
	}
	return kstatus.InProgressStatus
}

// violations of what tools rely on, in one status as it was stored.
func violations(object *unstructured.Unstructured, got string, failure error) []string {
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if failure != nil {
		return []string{fmt.Sprintf("kstatus cannot read it: %v", failure)}
	}
	observed, _, _ := unstructured.NestedInt64(object.Object, "status", "observedGeneration")
	ready, there := conditionOf(object, "Ready")
	// Before the first look there need not be any.
	if !there && observed > 0 {
		say("no condition Ready")
	}
	if want := expected(object, ready); got != want.String() {
		say("kstatus says %s where Ready %s %s promises %s", got, ready.Status, ready.Reason, want)
	}
	stalled, there := conditionOf(object, "Stalled")
	if !there && observed > 0 {
		say("no condition Stalled")
	}
	if ready.Status == "True" && stalled.Status == "True" {
		say("Ready and Stalled at once, by %s", stalled.Reason)
	}
	for _, c := range conditionsOf(object) {
		if c.ObservedGeneration < 1 || c.ObservedGeneration > object.GetGeneration() {
			say("condition %s is of generation %d of %d", c.Type, c.ObservedGeneration, object.GetGeneration())
		}
	}
	return found
}
