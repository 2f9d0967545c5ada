package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// secretSelectors are those with which Secrets may be listed and watched: the
// token Secrets, whose metadata is all that is asked for, and the key ring.
var secretSelectors = []string{
	"virtualaccounts.dev/account",
	"metadata.name=virtual-account-operator-keys",
}

// unseen is how a comment above a rule says that no test uses a verb of it, or
// that some runs do not, such as what only a lost race needs.
var unseen = regexp.MustCompile(`Not (always )?seen in the tests: (\S+ \S+), `)

// rbac compares what operators asked for in tests with the roles they have, and
// prints each difference. The roles are read from stdin, as YAML.
func rbac(args []string) int {
	flags := flag.NewFlagSet("testplane rbac", flag.ContinueOnError)
	complete := flags.Bool("complete", false, "all tests have run: each verb of each rule must have been used")
	expected := flags.String("expected", "", "a file of requests that tests mean to be refused, a line each")
	if err := flags.Parse(args); err != nil || flags.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: testplane rbac [-complete] [-expected FILE] DIR <ROLES")
		return 2
	}
	uses, err := readUses(flags.Arg(0))
	if err != nil {
		progress("%v", err)
		return 1
	}
	refusals, err := readExpected(*expected)
	if err != nil {
		progress("%v", err)
		return 1
	}
	problems := judgeUses(uses, refusals)
	if *complete {
		roles, err := io.ReadAll(os.Stdin)
		if err != nil {
			progress("%v", err)
			return 1
		}
		unused, err := unusedRules(string(roles), uses)
		if err != nil {
			progress("%v", err)
			return 1
		}
		problems = append(problems, unused...)
	}
	for _, problem := range problems {
		fmt.Println(problem)
	}
	fmt.Printf("rights: %d kinds of requests seen, %d problems\n", len(uses), len(problems))
	if len(problems) > 0 {
		return 1
	}
	return 0
}

func readUses(dir string) ([]use, error) {
	all := map[use]bool{}
	err := gather(dir, func(seen []use) {
		for _, u := range seen {
			all[u] = true
		}
	})
	byText := func(a, b use) int { return strings.Compare(fmt.Sprintf("%+v", a), fmt.Sprintf("%+v", b)) }
	return slices.SortedFunc(maps.Keys(all), byText), err
}

// readExpected reads lines such as `create tokenreviews.authentication.k8s.io cluster`;
// what follows a # says why.
func readExpected(name string) (map[string]bool, error) {
	expected := map[string]bool{}
	if name == "" {
		return expected, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if fields := strings.Fields(line); len(fields) > 0 {
			expected[strings.Join(fields, " ")] = true
		}
	}
	return expected, lines.Err()
}

func judgeUses(uses []use, expected map[string]bool) []string {
	var problems []string
	for _, u := range uses {
		where := u.String() + " " + u.Where
		if u.Refused && !expected[where] {
			problems = append(problems, "refused by RBAC, and no test means it to be: "+where)
		}
		scans := u.Resource == "secrets" && (u.Verb == "list" || u.Verb == "watch")
		if scans && !u.Refused && !slices.Contains(secretSelectors, u.Selector) {
			problems = append(problems, fmt.Sprintf("Secrets of others are read: %s with selector %q", where, u.Selector))
		}
	}
	return problems
}

// unusedRules names each verb of the operator's roles that no request needed.
func unusedRules(text string, uses []use) ([]string, error) {
	var problems []string
	bound, documents := map[string]bool{}, strings.Split(text, "\n---")
	for _, document := range documents {
		var binding rbacv1.ClusterRoleBinding
		if err := yaml.Unmarshal([]byte(document), &binding); err != nil {
			return nil, err
		}
		if strings.HasSuffix(binding.Kind, "RoleBinding") {
			bound[binding.RoleRef.Kind+"/"+binding.RoleRef.Name] = true
		}
	}
	for _, document := range documents {
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal([]byte(document), &role); err != nil {
			return nil, err
		}
		if !bound[role.Kind+"/"+role.Name] {
			continue
		}
		delete(bound, role.Kind+"/"+role.Name)
		excused, never := map[string]bool{}, map[string]bool{}
		for _, match := range unseen.FindAllStringSubmatch(document, -1) {
			excused[match[2]], never[match[2]] = true, match[1] == ""
		}
		for _, rule := range role.Rules {
			for _, u := range granted(rule) {
				seen := slices.ContainsFunc(uses, func(seen use) bool { return u.covers(role.Kind, rule.ResourceNames, seen) })
				switch {
				case !seen && !excused[u.String()]:
					problems = append(problems, fmt.Sprintf("%s %s allows what no test needs: %s %v", role.Kind, role.Name, u, rule.ResourceNames))
				case seen && never[u.String()]:
					problems = append(problems, fmt.Sprintf("%s %s says that no test needs %s, but one does", role.Kind, role.Name, u))
				}
			}
		}
	}
	for role := range bound {
		problems = append(problems, "no rules are given for "+role)
	}
	return problems, nil
}

func granted(rule rbacv1.PolicyRule) []use {
	var all []use
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				all = append(all, use{Group: group, Resource: resource, Verb: verb})
			}
		}
	}
	return all
}

// covers says whether a request needed this right: what a Role in the operator's
// own namespace gives is not what a ClusterRole is for.
func (u use) covers(kind string, names []string, seen use) bool {
	if seen.Refused || u.Group != seen.Group || u.Resource != seen.Resource || u.Verb != seen.Verb {
		return false
	}
	if kind == "ClusterRole" {
		return seen.Where != "own"
	}
	return seen.Where == "own" && (len(names) == 0 || slices.Contains(names, seen.Name))
}
