// Command testplane is a real Kubernetes control plane for tests, in one binary.
//
// The first argument chooses a component (etcd, kube-apiserver,
// kube-controller-manager, kubectl), the launcher (up), which runs the first
// three as child processes of this same executable, or the check of what the
// operators on all planes of a test run were allowed to do (rbac).
package main

import (
	"fmt"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

const usage = "usage: testplane up|rbac|etcd|kube-apiserver|kube-controller-manager|kubectl [flags]"

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	component := os.Args[1]
	// Each component parses os.Args itself and expects its own name first.
	os.Args = os.Args[1:]
	os.Exit(run(component))
}

func run(component string) int {
	switch component {
	case "up":
		return up(os.Args[1:])
	case "rbac":
		return rbac(os.Args[1:])
	case "etcd":
		etcdmain.Main(os.Args)
		return 0
	case "kube-apiserver":
		return cli.Run(apiserver.NewAPIServerCommand())
	case "kube-controller-manager":
		return cli.Run(controllermanager.NewControllerManagerCommand())
	case "kubectl":
		// CheckErr prints as kubectl does and ends with kubectl's exit codes.
		kubectlutil.CheckErr(cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()))
		return 0
	default:
		fmt.Fprintln(os.Stderr, usage)
		return 2
	}
}
