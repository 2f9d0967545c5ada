package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// patience for planes whose tests have just ended.
const patience = time.Minute

// harvest marks a plane as running, in the directory that this variable names, and
// returns what to do at its end: leave there what judge makes of its audit log.
// Without a directory in the environment nothing is done.
func harvest(variable, auditLog string, judge func(io.Reader) (any, error)) func() {
	dir := os.Getenv(variable)
	if dir == "" || auditLog == "" {
		return func() {}
	}
	// The process id tells a plane that died from one that is slow. The time makes
	// the name unique: ids come again in a long run.
	stem := filepath.Join(dir, fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano()))
	// Opened before the API server does: once their test binary has ended, the next
	// one removes the plane's files, and the log may be read later than that.
	log, err := os.OpenFile(auditLog, os.O_RDONLY|os.O_CREATE, 0o600)
	if err == nil {
		err = os.WriteFile(stem+".running", nil, 0o600)
	}
	if err != nil {
		progress("cannot prepare the harvest: %v", err)
	}
	return func() {
		defer log.Close()
		if err := leave(log, stem+".json", judge); err != nil {
			// The mark stays, which fails the summary.
			progress("cannot harvest: %v", err)
			return
		}
		_ = os.Remove(stem + ".running")
	}
}

func leave(log io.Reader, to string, judge func(io.Reader) (any, error)) error {
	seen, err := judge(log)
	if err != nil {
		return err
	}
	data, err := json.Marshal(seen)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600)
}

// gather hands on what each plane has left, and fails if one has left nothing.
func gather[T any](dir string, add func(T)) error {
	if marks := waitForPlanes(dir); len(marks) > 0 {
		return fmt.Errorf("these planes have not told what they saw: %s", strings.Join(marks, " "))
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var one T
		if err := json.Unmarshal(data, &one); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		add(one)
	}
	return nil
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
