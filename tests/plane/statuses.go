package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	kstatus "sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// summarizeStatuses prints what all planes of a run have seen and fails if a
// status broke a promise, a plane did not tell, or (with -complete, for a run
// of all tests) a kind was never seen in one of the states that matter.
func summarizeStatuses(args []string) int {
	flags := flag.NewFlagSet("testplane statuses", flag.ContinueOnError)
	complete := flags.Bool("complete", false, "fail unless every kind was seen Current, InProgress and Failed")
	if flags.Parse(args) != nil || flags.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: testplane statuses [-complete] DIR")
		return 2
	}
	total := &statusesSeen{Counts: map[string]int{}}
	if err := gather(flags.Arg(0), total.merge); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if *complete {
		total.demandAll()
	}
	for _, key := range slices.Sorted(maps.Keys(total.Counts)) {
		fmt.Printf("%7d  %s\n", total.Counts[key], key)
	}
	for _, violation := range total.Violations {
		fmt.Printf("VIOLATION: %s\n", violation)
	}
	if len(total.Violations) > 0 {
		return 1
	}
	return 0
}

func (s *statusesSeen) demandAll() {
	for _, kind := range []string{"VirtualAccount", "TokenStore", "NotificationChannel"} {
		for _, status := range []kstatus.Status{kstatus.CurrentStatus, kstatus.InProgressStatus, kstatus.FailedStatus} {
			prefix := fmt.Sprintf("%s %s ", kind, status)
			if !slices.ContainsFunc(slices.Collect(maps.Keys(s.Counts)), func(key string) bool {
				return strings.HasPrefix(key, prefix)
			}) {
				s.violate("no %s was ever %s: the harvest is broken, or a test is missing", kind, status)
			}
		}
	}
}

func (s *statusesSeen) merge(one statusesSeen) {
	for key, count := range one.Counts {
		s.Counts[key] += count
	}
	for _, violation := range one.Violations {
		s.violate("%s", violation)
	}
}
