package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

type options struct {
	dir            string
	audit          bool
	apiserverFlags []string
}

// description is the line that up prints when the plane is ready.
type description struct {
	Kubeconfig string         `json:"kubeconfig"`
	Server     string         `json:"server"`
	CAFile     string         `json:"caFile"`
	AuditLog   string         `json:"auditLog"`
	Dir        string         `json:"dir"`
	Pids       map[string]int `json:"pids"`
}

// answer is the line that follows each command.
type answer struct {
	OK    bool           `json:"ok,omitempty"`
	Pids  map[string]int `json:"pids,omitempty"`
	Error string         `json:"error,omitempty"`
}

// up starts a plane, describes it in one line on stdout, obeys the commands on
// stdin and ends the plane at the end of stdin, so that the plane dies with
// whoever started it, however that one ends.
func up(args []string) int {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	// Read from the beginning: stdin may end while the plane is starting.
	commands := make(chan string, 64)
	go func() {
		defer cancel()
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			commands <- lines.Text()
		}
	}()

	p, err := newPlane(o)
	if err != nil {
		progress("cannot prepare: %v", err)
		return 1
	}
	// Deferred before the end, so they run after it, when the log is complete.
	defer harvest(rbacHarvestDir, p.auditLog, usesSeen)()
	defer harvest(statusHarvestDir, p.auditLog, judgeStatuses)()
	defer p.end()
	for _, c := range p.components {
		err := c.start(ctx)
		if ctx.Err() != nil {
			progress("told to end while starting")
			return 1
		}
		if err != nil {
			progress("%v", err)
			return 1
		}
	}
	reply(os.Stdout, description{
		Kubeconfig: p.path("admin.kubeconfig"),
		Server:     p.server,
		CAFile:     p.path(caCert),
		AuditLog:   p.auditLog,
		Dir:        p.dir,
		Pids:       p.pids(),
	})
	p.serve(ctx, commands)
	return 0
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("testplane up", flag.ContinueOnError)
	flags.StringVar(&o.dir, "dir", "", "an empty or missing directory for all files of the plane (required)")
	flags.BoolVar(&o.audit, "audit", false, "log each request to DIR/audit.log, without bodies but those of our kinds' statuses")
	flags.Func("apiserver-flag", "a further flag for kube-apiserver, as --name=value; may be repeated",
		func(value string) error {
			o.apiserverFlags = append(o.apiserverFlags, value)
			return nil
		})
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.dir == "" || flags.NArg() > 0 {
		flags.Usage()
		return o, errors.New("--dir is required, arguments are not known")
	}
	return o, nil
}

func (p *plane) serve(ctx context.Context, commands <-chan string) {
	for {
		select {
		case <-ctx.Done():
			return
		case line := <-commands:
			if err := p.obey(ctx, line); err != nil {
				reply(os.Stdout, answer{Error: err.Error()})
			} else {
				// The pids are in each answer, since most commands change one.
				reply(os.Stdout, answer{OK: true, Pids: p.pids()})
			}
		}
	}
}

func (p *plane) obey(ctx context.Context, line string) error {
	verb, name, _ := strings.Cut(strings.TrimSpace(line), " ")
	if verb == "pids" {
		return nil
	}
	if !slices.Contains([]string{"stop", "start", "restart"}, verb) {
		return fmt.Errorf("unknown command %q: want stop, start, restart or pids", verb)
	}
	at := slices.IndexFunc(p.components, func(c *component) bool { return c.name == name })
	if at < 0 {
		return fmt.Errorf("unknown component %q", name)
	}
	c := p.components[at]
	if verb != "start" {
		if err := c.stop(); err != nil {
			return err
		}
	}
	if verb != "stop" {
		return c.start(ctx)
	}
	return nil
}

// pids are those of the running components.
func (p *plane) pids() map[string]int {
	pids := map[string]int{}
	for _, c := range p.components {
		if c.running() {
			pids[c.name] = c.current.Pid
		}
	}
	return pids
}

// end kills what runs and removes the database, which is large. Logs stay for
// whoever wants to know what happened.
func (p *plane) end() {
	for _, c := range slices.Backward(p.components) {
		if c.running() {
			c.kill()
		}
	}
	if err := os.RemoveAll(p.path("etcd")); err != nil {
		progress("cannot remove the database: %v", err)
	}
}

func reply(to io.Writer, value any) {
	line, err := json.Marshal(value)
	if err != nil {
		// Strings, numbers and maps of them always marshal.
		panic(err)
	}
	fmt.Fprintf(to, "%s\n", line)
}
