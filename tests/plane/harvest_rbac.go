package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"maps"
	neturl "net/url"
	"slices"
	"strings"
)

// rbacHarvestDir names the directory to which each plane, at its end, adds what
// the operators on it asked of the API server.
const rbacHarvestDir = "VAO_RBAC_HARVEST"

// operatorAgent begins the user agent of the operator's binary. Tests that act
// with its token, as a thief would, do not count.
const operatorAgent = "virtual-account-operator/"

// use is a kind of request that an operator made.
type use struct {
	Group    string `json:"group"`
	Resource string `json:"resource"` // with its subresource
	Verb     string `json:"verb"`
	// Where is own (the operator's namespace), other or cluster.
	Where string `json:"where"`
	// Name is that of a Lease or Secret in the own namespace, where Roles name them.
	Name string `json:"name,omitempty"`
	// Selector is that of a list or watch of Secrets.
	Selector string `json:"selector,omitempty"`
	// Refused by RBAC.
	Refused bool `json:"refused,omitempty"`
}

func (u use) String() string {
	resource := u.Resource
	if u.Group != "" {
		// As RBAC's messages have it: the group is the resource's.
		name, sub, _ := strings.Cut(u.Resource, "/")
		resource = name + "." + u.Group
		if sub != "" {
			resource += "/" + sub
		}
	}
	return u.Verb + " " + resource
}

// auditedRequest is what of an audit event matters here.
type auditedRequest struct {
	Stage     string `json:"stage"`
	Verb      string `json:"verb"`
	URI       string `json:"requestURI"`
	UserAgent string `json:"userAgent"`
	User      struct {
		Username string `json:"username"`
	} `json:"user"`
	ObjectRef   *objectRef        `json:"objectRef"`
	Annotations map[string]string `json:"annotations"`
}

type objectRef struct {
	APIGroup    string `json:"apiGroup"`
	Resource    string `json:"resource"`
	Subresource string `json:"subresource"`
	Namespace   string `json:"namespace"`
	Name        string `json:"name"`
}

// usesSeen is what the operators on a plane asked for.
func usesSeen(log io.Reader) (any, error) {
	uses, err := usesIn(log)
	if err != nil {
		return nil, err
	}
	forgive(uses)
	return slices.Collect(maps.Keys(uses)), nil
}

// forgive drops refusals of what the same plane allowed at another time: an API
// server that starts refuses until it has read the roles, and one whose release
// was uninstalled refuses from then on. A right that the roles lack is refused always.
func forgive(uses map[use]bool) {
	for u := range uses {
		allowed := u
		allowed.Refused = false
		if u.Refused && uses[allowed] {
			delete(uses, u)
		}
	}
}

func usesIn(log io.Reader) (map[use]bool, error) {
	uses := map[use]bool{}
	lines := bufio.NewReader(log)
	for {
		line, err := lines.ReadBytes('\n')
		var r auditedRequest
		// A killed API server may have torn a line.
		if json.Unmarshal(line, &r) == nil {
			if u, ok := r.use(); ok {
				uses[u] = true
			}
		}
		if errors.Is(err, io.EOF) {
			return uses, nil
		} else if err != nil {
			return nil, err
		}
	}
}

func (r auditedRequest) use() (use, bool) {
	own, ok := strings.CutPrefix(r.User.Username, "system:serviceaccount:")
	if !ok || r.ObjectRef == nil || !strings.HasPrefix(r.UserAgent, operatorAgent) {
		return use{}, false
	}
	own, _, _ = strings.Cut(own, ":")
	ref := r.ObjectRef
	u := use{Group: ref.APIGroup, Resource: ref.Resource, Verb: r.Verb, Where: "other",
		Refused: r.Annotations["authorization.k8s.io/decision"] == "forbid"}
	if ref.Subresource != "" {
		u.Resource += "/" + ref.Subresource
	}
	switch ref.Namespace {
	case "":
		u.Where = "cluster"
	case own:
		u.Where = "own"
	}
	named := ref.Resource == "secrets" || ref.Resource == "leases"
	if named && u.Where == "own" {
		u.Name = ref.Name
	}
	if ref.Resource == "secrets" && (r.Verb == "list" || r.Verb == "watch") {
		u.Selector = selector(r.URI)
	}
	return u, true
}

func selector(uri string) string {
	parsed, err := neturl.Parse(uri)
	if err != nil {
		return ""
	}
	query := parsed.Query()
	return strings.Trim(query.Get("labelSelector")+" "+query.Get("fieldSelector"), " ")
}
