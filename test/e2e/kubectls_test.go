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
			manifest := strings.Replace(aDeployment("web", 2), `command: [sleep, "3600"]`, `command: [sh, -c, "echo started; mkdir /www; echo the page > /www/index.html; exec httpd -f -p 8080 -h /www"]`, 1)
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
			u.kubectl("scale", "deployment/web", "--replicas=1")
			u.kubectl("set", "env", "deployment/web", "A=b")
			u.kubectl("rollout", "status", "deployment/web")
			u.kubectl("rollout", "undo", "deployment/web")
			u.kubectl("rollout", "status", "deployment/web")
			contains(t, u.kubectl("describe", "deployment", "web"), `Name: web`, `Replicas: 1 desired \| 1 updated \| 1 total \| 1 available \| 0 unavailable`)
			contains(t, u.kubectl("explain", "deployment.spec"), `replicas <integer>`)
			contains(t, u.kubectl("api-resources"), `deployments deploy apps/v1 true Deployment`)
			u.kubectl("delete", "deployment", "web", "--cascade=foreground")
			has(t, u.do(nil, "get", "pods").err, fmt.Sprintf("No resources found in %s namespace.", u.ns))
		})
	}
}
