package e2e

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The manifests in testdata/seeds have the fields of those in the documents that Celox was started from, with the API versions of their time.

func TestSeedDeploymentAppsV1beta1(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	r := u.do(nil, "apply", "-f", "testdata/seeds/deployment-apps-v1beta1.yaml")
	like(t, r.out, `deployment\.apps/nginx-deployment created`, `service/nginx-service created`)
	has(t, r.err, "Warning: apps/v1beta1 Deployment is deprecated")
	u.kubectl("rollout", "status", "deployment/nginx-deployment")
	like(t, u.kubectl("get", "deployment", "nginx-deployment"),
		`NAME READY UP-TO-DATE AVAILABLE AGE`, `nginx-deployment 3/3 3 3 \S+`)
	like(t, u.kubectl("get", "service", "nginx-service"),
		`NAME TYPE CLUSTER-IP EXTERNAL-IP PORT\(S\) AGE`, `nginx-service LoadBalancer [0-9.]+ (<pending>|[0-9.]+) 80:\d+/TCP \S+`)

	// the defaults of that version: a selector from the labels, and the strategy
	like(t, u.kubectl("get", "deployment", "nginx-deployment", "-o", "jsonpath={.apiVersion} {.spec.selector.matchLabels} {.spec.strategy.rollingUpdate}"),
		`apps/v1 \{"app":"nginx"\} \{"maxSurge":"25%","maxUnavailable":"25%"\}`)

	// scaling by a patch
	like(t, u.kubectl("patch", "deployment", "nginx-deployment", "--patch", `{"spec":{"replicas":4}}`), `deployment\.apps/nginx-deployment patched`)
	u.says("4 4 4", "get", "deployment", "nginx-deployment", "-o", "jsonpath={.status.replicas} {.status.readyReplicas} {.status.availableReplicas}")

	u.shows([]string{"describe", "deployment/nginx-deployment"},
		`Name: nginx-deployment`, `Namespace: `+u.ns, `Annotations: deployment\.kubernetes\.io/revision: 1`, `Selector: app=nginx`,
		`Replicas: 4 desired \| 4 updated \| 4 total \| 4 available \| 0 unavailable`, `StrategyType: RollingUpdate`, `MinReadySeconds: 0`,
		`RollingUpdateStrategy: 25% max unavailable, 25% max surge`, `Labels: app=nginx`, `nginx:`, `Image: nginx:1\.7\.9`, `Port: 80/TCP`, `Host Port: 0/TCP`,
		`Available True MinimumReplicasAvailable`, `Progressing True NewReplicaSetAvailable`, `OldReplicaSets: <none>`, `NewReplicaSet: nginx-deployment-\S+ \(4/4 replicas created\)`,
		`Normal ScalingReplicaSet \S+ deployment-controller Scaled up replica set nginx-deployment-\S+ from 0 to 3`,
		`Normal ScalingReplicaSet \S+ deployment-controller Scaled up replica set nginx-deployment-\S+ from 3 to 4`)

	// a new version, the history, and back
	u.kubectl("set", "image", "deployment/nginx-deployment", "nginx=nginx:1.9.1")
	u.kubectl("rollout", "status", "deployment/nginx-deployment")
	like(t, u.kubectl("rollout", "history", "deployment/nginx-deployment"),
		`deployment\.apps/nginx-deployment`, `REVISION CHANGE-CAUSE`, `1 <none>`, `2 <none>`)
	has(t, u.page("app=nginx"), "nginx 1.9.1")
	like(t, u.kubectl("rollout", "undo", "deployment/nginx-deployment"), `deployment\.apps/nginx-deployment rolled back`)
	u.kubectl("rollout", "status", "deployment/nginx-deployment")
	has(t, u.page("app=nginx"), "nginx 1.7.9")
	like(t, u.kubectl("rollout", "history", "deployment/nginx-deployment"),
		`deployment\.apps/nginx-deployment`, `REVISION CHANGE-CAUSE`, `2 <none>`, `3 <none>`)
	u.says("nginx-deployment   4/4     4            4", "get", "deployment", "nginx-deployment")
}

func TestSeedDeploymentExtensionsV1beta1(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	r := u.do(nil, "apply", "-f", "testdata/seeds/deployment-extensions-v1beta1.yaml")
	like(t, r.out, `deployment\.\S+/nginx-deployment created`)
	has(t, r.err, "Warning: extensions/v1beta1 Deployment is deprecated")
	u.kubectl("rollout", "status", "deployment/nginx-deployment")
	contains(t, u.kubectl("describe", "deployment/nginx-deployment"), `RollingUpdateStrategy: 1 max unavailable, 0 max surge`)

	// the second time nothing is to be done
	like(t, u.kubectl("apply", "-f", "testdata/seeds/deployment-extensions-v1beta1.yaml"), `deployment\.\S+/nginx-deployment unchanged`)

	// never more than three: the surge is 0
	manifest, err := os.ReadFile("testdata/seeds/deployment-extensions-v1beta1.yaml")
	if err != nil {
		t.Fatal(err)
	}
	like(t, u.apply(strings.Replace(string(manifest), "nginx:1.7.9", "nginx:1.9.1", 1)), `deployment\.\S+/nginx-deployment configured`)
	u.kubectl("rollout", "status", "deployment/nginx-deployment")
	has(t, u.page("app=nginx"), "nginx 1.9.1")
	like(t, u.kubectl("get", "replicasets", "-o", "custom-columns=WANT:.spec.replicas,HAVE:.status.replicas", "--sort-by=.spec.replicas"),
		`WANT HAVE`, `0 0`, `3 3`)
}

func TestSeedPods(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	like(t, u.kubectl("create", "-f", "testdata/seeds/hello.yaml"), `pod/hello created`)
	like(t, u.kubectl("apply", "-f", "testdata/seeds/hello-volume.yaml"), `pod/hello-volume created`)
	u.await("pod/hello", "condition=Ready")
	u.await("pod/hello-volume", "condition=Ready")
	like(t, u.kubectl("get", "pods"), `NAME READY STATUS RESTARTS AGE`, `hello 1/1 Running 0 \S+`, `hello-volume 1/1 Running 0 \S+`)
	u.kubectl("exec", "hello-volume", "--", "sh", "-c", "echo kept > /data/file")
	like(t, u.kubectl("exec", "hello-volume", "--", "cat", "/data/file"), `kept`)
	u.says("nginx 1.15", "exec", "hello", "--", "wget", "-qO-", "http://127.0.0.1")
}

// page fetches the page of a pod with a label, from the machine itself. Pods that are on their way out don't count.
func (u *user) page(selector string) string {
	u.t.Helper()
	pods, err := u.client().CoreV1().Pods(u.ns).List(u.t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		u.t.Fatal(err)
	}
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning && p.Status.PodIP != "" {
			return u.fetchPatiently("http://" + p.Status.PodIP + ":80")
		}
	}
	u.t.Fatalf("no pod with %s runs:\n%s", selector, u.picture())
	return ""
}

// fetch gets a URL from the machine.
func (u *user) fetch(url string) string {
	u.t.Helper()
	res, err := u.m.HTTP().Get(url)
	if err != nil {
		u.t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil {
		u.t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		u.t.Fatalf("%s: %s\n%s", url, res.Status, body)
	}
	return string(body)
}
