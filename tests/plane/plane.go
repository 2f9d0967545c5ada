package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// issuer is the `iss` and the default audience of service-account tokens. It is
// the name of a real cluster's, and the same in each plane.
const issuer = "https://kubernetes.default.svc.cluster.local"

// controllers are those that tests of an operator need. There are no nodes, so
// none that deals with pods.
const controllers = "garbage-collector-controller,namespace-controller,serviceaccount-controller," +
	"root-ca-certificate-publisher-controller,clusterrole-aggregation-controller"

// plane is one control plane with all its files in one directory.
type plane struct {
	dir        string
	server     string
	auditLog   string // empty without audit
	components []*component
}

// newPlane writes keys and configuration. It starts nothing.
func newPlane(o options) (*plane, error) {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if len(entries) > 0 {
		return nil, fmt.Errorf("%s must be empty or missing", dir)
	}
	if err := writePKI(dir); err != nil {
		return nil, err
	}
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	p := &plane{dir: dir, server: url("https", ports[2])}
	if o.audit {
		p.auditLog = p.path("audit.log")
		if err := os.WriteFile(p.path("audit.yaml"), []byte(auditPolicy), 0o600); err != nil {
			return nil, err
		}
	}
	if err := p.writeKubeconfig(); err != nil {
		return nil, err
	}
	client, err := p.adminClient()
	if err != nil {
		return nil, err
	}
	p.components = []*component{
		p.etcd(client, ports[0], ports[1]),
		p.apiserver(client, url("http", ports[0]), ports[2], o.apiserverFlags),
		p.controllerManager(client, ports[3]),
	}
	return p, nil
}

func (p *plane) path(name string) string { return filepath.Join(p.dir, name) }

func (p *plane) etcd(client *http.Client, clientPort, peerPort int) *component {
	serve, peer := url("http", clientPort), url("http", peerPort)
	return &component{
		name:     "etcd",
		log:      p.path("etcd.log"),
		deadline: 30 * time.Second,
		probe:    probe(client, serve+"/health"),
		args: []string{
			"--name=d",
			"--data-dir=" + p.path("etcd"),
			"--listen-client-urls=" + serve,
			"--advertise-client-urls=" + serve,
			"--listen-peer-urls=" + peer,
			"--initial-advertise-peer-urls=" + peer,
			"--initial-cluster=d=" + peer,
			"--log-level=warn",
			// Tests kill processes, never the machine.
			"--unsafe-no-fsync",
		},
	}
}

func (p *plane) apiserver(client *http.Client, etcd string, port int, extra []string) *component {
	args := []string{
		"--etcd-servers=" + etcd,
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		"--endpoint-reconciler-type=none",
		fmt.Sprintf("--secure-port=%d", port),
		"--tls-cert-file=" + p.path(serverCert),
		"--tls-private-key-file=" + p.path(serverKey),
		"--cert-dir=" + p.dir,
		"--client-ca-file=" + p.path(caCert),
		"--authorization-mode=RBAC",
		"--service-cluster-ip-range=10.0.0.0/24",
		// It would refuse pods without mounting tokens, and there are no pods.
		"--disable-admission-plugins=ServiceAccount",
		"--service-account-issuer=" + issuer,
		"--api-audiences=" + issuer,
		"--service-account-key-file=" + p.path(saPub),
		"--service-account-signing-key-file=" + p.path(saKey),
		// 100 years, for tests that move their clients' clocks.
		"--service-account-max-token-expiration=876000h",
		"--profiling=false",
	}
	if p.auditLog != "" {
		args = append(args,
			"--audit-policy-file="+p.path("audit.yaml"),
			"--audit-log-path="+p.auditLog,
			// In MB. 0 would mean 100: the log would be rotated away from its readers.
			"--audit-log-maxsize=1000000",
		)
	}
	return &component{
		name:     "kube-apiserver",
		log:      p.path("kube-apiserver.log"),
		deadline: 120 * time.Second,
		probe:    probe(client, p.server+"/readyz"),
		// Last, so that they override what stands above.
		args: append(args, extra...),
	}
}

func (p *plane) controllerManager(client *http.Client, port int) *component {
	healthy := probe(client, url("https", port)+"/healthz")
	// It says healthy before any controller runs; this account is made by one.
	working := probe(client, p.server+"/api/v1/namespaces/default/serviceaccounts/default")
	return &component{
		name:     "kube-controller-manager",
		log:      p.path("kube-controller-manager.log"),
		deadline: 60 * time.Second,
		probe: func(ctx context.Context) error {
			if err := healthy(ctx); err != nil {
				return err
			}
			return working(ctx)
		},
		args: []string{
			"--kubeconfig=" + p.path("admin.kubeconfig"),
			"--leader-elect=false",
			"--bind-address=127.0.0.1",
			fmt.Sprintf("--secure-port=%d", port),
			"--tls-cert-file=" + p.path(serverCert),
			"--tls-private-key-file=" + p.path(serverKey),
			"--service-account-private-key-file=" + p.path(saKey),
			"--root-ca-file=" + p.path(caCert),
			"--use-service-account-credentials=true",
			"--controllers=" + controllers,
			"--profiling=false",
		},
	}
}

// adminClient trusts the plane's CA and presents the administrator's
// certificate.
func (p *plane) adminClient() (*http.Client, error) {
	admin, err := tls.LoadX509KeyPair(p.path(adminCert), p.path(adminKey))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(p.path(caCert))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	config := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{admin}}
	return &http.Client{
		// A connection kept open would outlive the component it was made to.
		Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true},
		Timeout:   5 * time.Second,
	}, nil
}

func probe(client *http.Client, url string) func(context.Context) error {
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		answer, err := client.Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(io.LimitReader(answer.Body, 2048))
			return fmt.Errorf("%s: %s %s", url, answer.Status, strings.TrimSpace(string(body)))
		}
		return nil
	}
}

const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
# What the operator writes into the statuses of our kinds, for harvest_status.go.
- level: RequestResponse
  verbs: [update]
  resources:
  - group: virtualaccounts.dev
    resources: ["*/status"]
  omitManagedFields: true
# What the operator reads of Secrets in a list, for tests/rbac/secrets.rs: it is to be metadata. Its key ring is not.
- level: Metadata
  resources:
  - group: ""
    resources: [secrets]
    resourceNames: [virtual-account-operator-keys]
- level: RequestResponse
  users: ["system:serviceaccount:virtual-accounts:virtual-account-operator"]
  verbs: [list]
  resources:
  - group: ""
    resources: [secrets]
  omitManagedFields: true
# No other body is logged: Secrets.
- level: Metadata
`

const kubeconfig = `apiVersion: v1
kind: Config
current-context: admin
clusters:
- name: testplane
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: admin
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: admin
  context:
    cluster: testplane
    user: admin
`

func (p *plane) writeKubeconfig() error {
	values := []any{p.server}
	for _, name := range []string{caCert, adminCert, adminKey} {
		data, err := os.ReadFile(p.path(name))
		if err != nil {
			return err
		}
		values = append(values, base64.StdEncoding.EncodeToString(data))
	}
	return os.WriteFile(p.path("admin.kubeconfig"), fmt.Appendf(nil, kubeconfig, values...), 0o600)
}

// freePorts asks the kernel for ports that are free now. All are held until the
// last is known, so they differ. The kernel takes the source ports of outgoing
// connections from the other half of the range, so a stopped component's port is
// not lost to a client that tries to reach it.
func freePorts(count int) ([]int, error) {
	var ports []int
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer listener.Close()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

func url(scheme string, port int) string {
	return fmt.Sprintf("%s://127.0.0.1:%d", scheme, port)
}
