package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// component is one process of the plane. It can be stopped and started again
// with the same arguments, so it keeps its ports and its data.
type component struct {
	name     string
	args     []string
	log      string
	deadline time.Duration
	// probe succeeds once the component serves.
	probe func(context.Context) error

	current *process
}

type process struct {
	*os.Process
	exited chan struct{} // closed when the process has been reaped
	killed atomic.Bool   // by us, so its end is no news
}

// start returns when the component serves. If it does not, it is stopped and
// the error holds the end of its log.
func (c *component) start(ctx context.Context) error {
	if c.running() {
		return fmt.Errorf("%s runs already", c.name)
	}
	began := time.Now()
	if err := c.launch(); err != nil {
		return fmt.Errorf("%s does not start: %w", c.name, err)
	}
	if err := c.waitReady(ctx); err != nil {
		if c.running() {
			c.kill()
		}
		return fmt.Errorf("%s is not ready after %.1f s: %w; the end of %s:\n%s",
			c.name, time.Since(began).Seconds(), err, c.log, tail(c.log))
	}
	progress("%s ready (%.1f s)", c.name, time.Since(began).Seconds())
	return nil
}

func (c *component) stop() error {
	if !c.running() {
		return fmt.Errorf("%s does not run", c.name)
	}
	c.kill()
	return nil
}

func (c *component) running() bool {
	if c.current == nil {
		return false
	}
	select {
	case <-c.current.exited:
		return false
	default:
		return true
	}
}

func (c *component) kill() {
	c.current.killed.Store(true)
	// An error means that it has ended by itself, which is as good.
	_ = c.current.Kill()
	<-c.current.exited
}

func (c *component) launch() error {
	// Not os.Executable: a newer build may have removed that file meanwhile.
	command := exec.Command("/proc/self/exe", append([]string{c.name}, c.args...)...)
	// The components give their names in messages, so show what runs, not the link.
	command.Args[0] = "testplane"
	output, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	command.Stdout, command.Stderr = output, output
	command.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		// An own group: Ctrl-C reaches the launcher only, which then kills.
		Setpgid: true,
	}
	if err := startForLife(command); err != nil {
		return err
	}
	started := &process{Process: command.Process, exited: make(chan struct{})}
	c.current = started
	go func() {
		err := command.Wait()
		close(started.exited)
		if !started.killed.Load() {
			progress("%s ended by itself (%v), see %s", c.name, err, c.log)
		}
	}()
	return nil
}

func (c *component) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.deadline)
	defer cancel()
	last := errors.New("not asked yet")
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w, last answer: %w", ctx.Err(), last)
		case <-c.current.exited:
			return errors.New("it ended")
		case <-time.After(50 * time.Millisecond):
		}
		if last = c.probe(ctx); last == nil {
			return nil
		}
	}
}

var starts, started = make(chan *exec.Cmd), make(chan error)

func init() {
	// Pdeathsig fires when the *thread* that forked the child ends, not the
	// process, so all children come from one thread that never ends.
	go func() {
		runtime.LockOSThread()
		for command := range starts {
			started <- command.Start()
		}
	}()
}

func startForLife(command *exec.Cmd) error {
	starts <- command
	return <-started
}

// tail returns the last lines of a log, enough to see why a component failed.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "testplane: "+format+"\n", args...)
}
