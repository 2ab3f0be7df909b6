package main

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
)

// TestKubectlLogFlags: kubectl takes the flags of its log.
func TestKubectlLogFlags(t *testing.T) {
	kubectlutil.BehaviorOnFatal(func(said string, _ int) { t.Error(said) })
	t.Cleanup(kubectlutil.DefaultBehaviorOnFatal)
	of := os.Args
	t.Cleanup(func() { os.Args = of })
	root := newRoot()
	root.SetArgs([]string{"kubectl", "options", "-v", "0", "--v=0", "--vmodule=", "--log-flush-frequency=1s"})
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestKubectlAliases: the arguments of an alias in kuberc reach the command that it stands for.
func TestKubectlAliases(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	kubeconfig := write("config", `apiVersion: v1
kind: Config
current-context: one
contexts:
- {name: one, context: {cluster: here}}
- {name: two, context: {cluster: here}}
- {name: three, context: {cluster: here}}
`)
	kuberc := write("kuberc", `apiVersion: kubectl.config.k8s.io/v1beta1
kind: Preference
aliases:
- name: before
  command: config use-context
  prependArgs: [two]
- name: after
  command: config use-context
  appendArgs: [three]
`)
	t.Setenv("KUBECONFIG", kubeconfig)
	kubectlutil.BehaviorOnFatal(func(said string, _ int) { t.Error(said) })
	t.Cleanup(kubectlutil.DefaultBehaviorOnFatal)
	of := os.Args
	t.Cleanup(func() { os.Args = of })
	for _, c := range []struct{ command, context string }{
		{"before", "two"},
		{"after", "three"},
	} {
		root := newRoot()
		root.SetArgs([]string{"kubectl", c.command, "--kuberc=" + kuberc})
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		config, err := clientcmd.LoadFromFile(kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		if config.CurrentContext != c.context {
			t.Errorf("after the alias %q the context is %q instead of %q", c.command, config.CurrentContext, c.context)
		}
	}
}
