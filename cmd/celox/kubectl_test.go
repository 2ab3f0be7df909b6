package main

import (
	"os"
	"path/filepath"
	"strings"
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

// TestRefusedHint: who finds no cluster is told where one was looked for, and who finds that of a directory stopped, how to start it.
func TestRefusedHint(t *testing.T) {
	dir, empty := t.TempDir(), t.TempDir()
	t.Setenv("KUBECONFIG", "")
	kubeconfig := "apiVersion: v1\nkind: Config\nclusters:\n- {name: here, cluster: {server: 'https://127.0.0.1:7443'}}\n"
	if err := os.WriteFile(filepath.Join(dir, "admin.kubeconfig"), []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ message, dir, want string }{
		{"The connection to the server 127.0.0.1:7443 was refused - did you specify the right host or port?", dir, "celox server --data-dir " + dir},
		{"The connection to the server 10.0.0.1:6443 was refused - did you specify the right host or port?", dir, ""},
		{"The connection to the server localhost:8080 was refused - did you specify the right host or port?", empty, "there is no " + empty + "/admin.kubeconfig"},
		{"The connection to the server 10.0.0.1:6443 was refused - did you specify the right host or port?", empty, ""},
		{`pods "a" not found`, dir, ""},
	} {
		got := refusedHint(c.message, c.dir)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s in %s: %q, want %q", c.message, c.dir, got, c.want)
		}
	}
	t.Setenv("KUBECONFIG", "/none")
	if got := refusedHint("The connection to the server localhost:8080 was refused - did you specify the right host or port?", dir); !strings.Contains(got, "KUBECONFIG is /none") {
		t.Errorf("with KUBECONFIG: %q", got)
	}
}

// TestKubectlConfigOfTheCluster: kubectl's config commands work on the kubeconfig of the cluster in --data-dir, as all others do.
func TestKubectlConfigOfTheCluster(t *testing.T) {
	dir := t.TempDir()
	own := filepath.Join(dir, "admin.kubeconfig")
	kubeconfig := "apiVersion: v1\nkind: Config\ncurrent-context: one\ncontexts:\n- {name: one, context: {cluster: here}}\n"
	if err := os.WriteFile(own, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", "")
	kubectlutil.BehaviorOnFatal(func(said string, _ int) { t.Error(said) })
	t.Cleanup(kubectlutil.DefaultBehaviorOnFatal)
	of := os.Args
	t.Cleanup(func() { os.Args = of })
	root := newRoot()
	root.SetArgs([]string{"kubectl", "--data-dir", dir, "config", "set-context", "--current", "--namespace=shop"})
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := clientcmd.LoadFromFile(own)
	if err != nil {
		t.Fatal(err)
	}
	if one := c.Contexts["one"]; one == nil || one.Namespace != "shop" {
		t.Errorf("contexts %v", c.Contexts)
	}
}
