package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

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
	total, err := gather(flags.Arg(0))
	if err != nil {
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

func (h *harvest) demandAll() {
	for _, kind := range []string{"VirtualAccount", "TokenStore", "NotificationChannel"} {
		for _, status := range []kstatus.Status{kstatus.CurrentStatus, kstatus.InProgressStatus, kstatus.FailedStatus} {
			prefix := fmt.Sprintf("%s %s ", kind, status)
			if !slices.ContainsFunc(slices.Collect(maps.Keys(h.Counts)), func(key string) bool {
				return strings.HasPrefix(key, prefix)
			}) {
				h.violate("no %s was ever %s: the harvest is broken, or a test is missing", kind, status)
			}
		}
	}
}

// patience for planes whose tests have just ended.
const patience = 60 * time.Second

func gather(dir string) (*harvest, error) {
	total := &harvest{Counts: map[string]int{}}
	for _, mark := range waitForPlanes(dir) {
		total.violate("a plane did not tell its statuses: %s", mark)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var one harvest
		if err := json.Unmarshal(data, &one); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for key, count := range one.Counts {
			total.Counts[key] += count
		}
		for _, violation := range one.Violations {
			total.violate("%s", violation)
		}
	}
	return total, nil
}

// waitForPlanes returns the marks of those that have not told when they should.
func waitForPlanes(dir string) []string {
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		marks, _ := filepath.Glob(filepath.Join(dir, "*.running"))
		alive := slices.ContainsFunc(marks, func(mark string) bool {
			pid, _, _ := strings.Cut(filepath.Base(mark), "-")
			_, err := os.Stat(filepath.Join("/proc", pid))
			return err == nil
		})
		if !alive || time.Now().After(deadline) {
			// Once more: the last may have told between the two looks.
			marks, _ = filepath.Glob(filepath.Join(dir, "*.running"))
			return marks
		}
	}
}
