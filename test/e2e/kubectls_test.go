package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// otherKubectls finds what is named kubectl, or kubectl.VERSION, on the path, and what CELOX_E2E_KUBECTL names.
func otherKubectls() []string {
	var found []string
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		names, err := filepath.Glob(filepath.Join(dir, "kubectl"))
		if err != nil {
			continue
		}
		versioned, err := filepath.Glob(filepath.Join(dir, "kubectl.1.*"))
		if err != nil {
			continue
		}
		for _, name := range append(names, versioned...) {
			if real, err := filepath.EvalSymlinks(name); err == nil && !slices.Contains(found, real) {
				if _, err := exec.LookPath(real); err == nil {
					found = append(found, real)
				}
			}
		}
	}
	return append(found, filepath.SplitList(os.Getenv("CELOX_E2E_KUBECTL"))...)
}

// TestOtherKubectls does what most people do most of the time, with kubectls of other versions.
func TestOtherKubectls(t *testing.T) {
	t.Parallel()
	found := otherKubectls()
	if len(found) == 0 {
		t.Log("no other kubectl is on the path and CELOX_E2E_KUBECTL names none: only the built-in one was tested")
	}
	for _, program := range found {
		t.Run(filepath.Base(program), func(t *testing.T) {
			t.Parallel()
			u := newUser(t).with(program)
			u.env = []string{"KUBECACHEDIR=" + t.TempDir()}
			t.Logf("%s", u.kubectl("version"))
			manifest := servingDeployment("web", 2)
			has(t, u.apply(manifest), `deployment.apps/web created`, `service/web created`)
			has(t, u.apply(manifest), `deployment.apps/web unchanged`, `service/web unchanged`)
			has(t, u.kubectl("rollout", "status", "deployment/web"), `deployment "web" successfully rolled out`)
			like(t, u.kubectl("get", "deployments"), `NAME READY UP-TO-DATE AVAILABLE AGE`, `web 2/2 2 2 \S+`)
			has(t, u.feed(manifest, "apply", "--server-side", "--force-conflicts", "-f", "-"), `deployment.apps/web serverside-applied`)
			like(t, u.kubectl("get", "pods", "-l", "app=web"), `NAME READY STATUS RESTARTS AGE`, `web-\S+ 1/1 Running 0 \S+`, `web-\S+ 1/1 Running 0 \S+`)
			u.says("started", "logs", "deployment/web")
			like(t, u.kubectl("exec", "deployment/web", "--", "sh", "-c", "echo $((6*7))"), `42`)
			like(t, u.feed("in and out", "exec", "-i", "deployment/web", "--", "cat"), `in and out`)
			r := u.do(nil, "exec", "deployment/web", "--", "sh", "-c", "exit 9")
			if r.code != 9 {
				t.Errorf("exec ended with %d: %s", r.code, r.err)
			}
			address := u.background(u.start("port-forward", "service/web", ":80"), `Forwarding from (127\.0\.0\.1:\d+) -> 8080`)
			has(t, u.fetchPatiently("http://"+address), "the page")
			u.terminalAndFiles("deployment/web")
			u.kubectl("scale", "deployment/web", "--replicas=1")
			u.kubectl("set", "env", "deployment/web", "A=b")
			u.kubectl("rollout", "status", "deployment/web")
			u.kubectl("rollout", "undo", "deployment/web")
			u.kubectl("rollout", "status", "deployment/web")
			contains(t, u.kubectl("describe", "deployment", "web"), `Name: web`, `Replicas: 1 desired \| 1 updated \| 1 total \| 1 available \| 0 unavailable`)
			u.everyday()
			contains(t, u.kubectl("explain", "deployment.spec"), `replicas <integer>`)
			contains(t, u.kubectl("api-resources"), `deployments deploy apps/v1 true Deployment`)
			u.kubectl("delete", "deployment", "web", "--cascade=foreground")
			has(t, u.do(nil, "get", "pods").err, fmt.Sprintf("No resources found in %s namespace.", u.ns))
		})
	}
}

// terminalAndFiles sits at a terminal in a pod, copies files there and back, and attaches to a pod that it runs.
func (u *user) terminalAndFiles(target string) {
	u.t.Helper()
	term := newTerminal(u.t, 31, 97)
	cmd := u.start("exec", "-it", target, "--", "sh")
	term.start(u, cmd)
	term.expect("# ")
	term.write("stty size\n")
	term.expect("31 97")
	term.write("exit 7\n")
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 7 {
		u.t.Errorf("the shell ended with %v", err)
	}
	file := u.file("file", "the content\n")
	pod := u.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}")
	u.kubectl("cp", file, pod+":/tmp/file")
	u.kubectl("cp", pod+":/tmp/file", file+".back")
	if back, err := os.ReadFile(file + ".back"); err != nil || string(back) != "the content\n" {
		u.t.Errorf("%q came back: %v", back, err)
	}
	out := u.feed("from the terminal\n", "run", "once", "--image="+busybox, "--restart=Never", "--rm", "-i", "--quiet", "--", "sh", "-c", "read line; echo I read: $line")
	has(u.t, out, "I read: from the terminal")
}

// everyday is what else is done every day.
func (u *user) everyday() {
	u.t.Helper()
	u.kubectl("wait", "deployment/web", "--for=condition=Available", "--timeout="+patience.String())
	u.kubectl("wait", "deployment/web", "--for=jsonpath={.status.readyReplicas}=1", "--timeout="+patience.String())
	u.shows([]string{"events", "--for", "deployment/web"}, `.* Normal ScalingReplicaSet .*`)
	has(u.t, u.feed(settings, "apply", "-f", "-"), "configmap/settings created")
	if r := u.do(strings.NewReader(settings), "diff", "-f", "-"); r.code != 0 || r.out != "" {
		u.t.Errorf("nothing differs, but: %+v", r)
	}
	for _, patch := range [][]string{{"json", `[{"op":"add","path":"/data/json","value":"1"}]`}, {"merge", `{"data":{"merge":"1"}}`}} {
		like(u.t, u.kubectl("patch", "cm", "settings", "--type="+patch[0], "-p", patch[1]), `configmap/settings patched`)
	}
	like(u.t, u.kubectl("patch", "deployment", "web", "-p", `{"spec":{"template":{"metadata":{"annotations":{"strategic":"1"}}}}}`), `deployment.apps/web patched`)
	u.kubectl("rollout", "status", "deployment/web")
	u.kubectl("label", "cm", "settings", "tier=front")
	u.kubectl("annotate", "cm", "settings", "note=hello")
	v := *u
	v.env = append(u.env[:len(u.env):len(u.env)], "KUBE_EDITOR="+u.file("editor", "#!/bin/sh\nsed -i 's/b: \"2\"/b: edited/' \"$1\"\n"))
	like(u.t, v.kubectl("edit", "configmap", "settings"), `configmap/settings edited`)
	like(u.t, u.kubectl("get", "cm", "-l", "tier=front", "-o", "jsonpath={.items[0].data}"), `\{"a":"1","b":"edited","json":"1","merge":"1"\}`)
	like(u.t, u.kubectl("auth", "can-i", "delete", "nodes"), `yes`)
	has(u.t, u.refused("get", "wombats"), `the server doesn't have a resource type "wombats"`)
	has(u.t, u.refused("create", "-f", u.file("bad.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndta: {a: b}\n")), `unknown field "dta"`)
	u.kubectl("create", "job", "once", "--image="+busybox, "--", "true")
	u.kubectl("delete", "job,cm", "--all")
}
