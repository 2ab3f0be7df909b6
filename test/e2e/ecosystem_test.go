package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// guest is a program of test/ecosystem: made with the libraries of people who build on Kubernetes, by `make ecosystem`.
func guest(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: make it with `make ecosystem`", err)
	}
	return path
}

const aFleet = `
apiVersion: harbor.celox.test/v1
kind: Fleet
metadata: {name: classis}
spec: {ships: 2}
`

// TestOperator runs a controller-runtime operator: a definition in two versions, its reconciler, finalizer, events, leader election, and
// webhooks for defaults, validation and conversion.
func TestOperator(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	operator := u.m.Command(guest(t, "operator"), "--kubeconfig", u.m.Kubeconfig(), "--namespace", u.ns, "--image", busybox)
	operator.Stderr = t.Output()
	u.background(operator, `(the operator leads)`)

	// What the webhooks do: defaults, refusals, warnings.
	u.apply(aFleet)
	like(t, u.kubectl("get", "fleet", "classis", "-o", "jsonpath={.spec.class} {.spec.harbor}"), `liburna Ostia`)
	u.await("fleet/classis", "condition=Ready")
	like(t, u.kubectl("get", "fl"), `NAME CLASS SHIPS AFLOAT`, `classis liburna 2 2`)
	has(t, u.refused("patch", "fleet", "classis", "--type=merge", "-p", `{"spec":{"ships":11}}`),
		`admission webhook "validate.harbor.celox.test" denied the request: Ostia holds ten ships, not 11`)
	has(t, u.refused("patch", "fleet", "classis", "--type=merge", "-p", `{"spec":{"harbor":"Portus"}}`), `spec.harbor: Invalid value: "Portus": a fleet does not move`)
	has(t, u.refused("patch", "fleet", "classis", "--type=merge", "-p", `{"spec":{"ships":1,"class":"trireme"}}`), `spec: Invalid value: triremes sail in pairs`)
	has(t, u.refused("patch", "fleet", "classis", "--type=merge", "-p", `{"spec":{"class":"raft"}}`), `spec.class: Unsupported value: "raft": supported values: "liburna", "trireme", "celox"`)
	r := u.do(strings.NewReader(strings.NewReplacer("classis", "empty", "ships: 2", "ships: 0").Replace(aFleet)), "apply", "-f", "-")
	has(t, r.err, `Warning: a fleet without ships`)

	// What the reconciler does: real pods, status, events, and the scale subresource on top.
	u.kubectl("scale", "fleet/classis", "--replicas=3")
	u.says("classis liburna 3 3", "get", "fleet", "classis", "--no-headers", "-o", `jsonpath={.metadata.name} {.spec.class} {.spec.ships} {.status.afloat}`)
	contains(t, u.kubectl("get", "pods", "-l", "fleet=classis"), `classis-\S+ 1/1 Running 0 \S+`)
	u.says("Launched", "events", "--for", "fleet/classis")
	like(t, u.kubectl("get", "fleets", "--field-selector", "spec.class=liburna", "-o", "name"), `fleet.harbor.celox.test/classis`, `fleet.harbor.celox.test/empty`)
	has(t, u.kubectl("get", "all"), "fleet.harbor.celox.test/classis")
	has(t, u.kubectl("explain", "fleet.spec.ships"), "How many.", "<integer>")
	has(t, u.kubectl("describe", "fleet", "classis"), "AllAfloat", "3 of 3 ships are afloat")

	// The other version, through the conversion webhook, both ways.
	like(t, u.kubectl("get", "fleets.v1alpha1.harbor.celox.test", "classis", "-o", "jsonpath={.apiVersion} {.spec.kind} {.spec.count}"), `harbor.celox.test/v1alpha1 liburna 3`)
	u.apply("apiVersion: harbor.celox.test/v1alpha1\nkind: Fleet\nmetadata: {name: old}\nspec: {count: 1, kind: celox}\n")
	u.await("fleet/old", "condition=Ready")
	like(t, u.kubectl("get", "fleet", "old", "-o", "jsonpath={.apiVersion} {.spec.class} {.spec.ships}"), `harbor.celox.test/v1 celox 1`)

	// Deletion: refused by the webhook, then done by the finalizer and the garbage collector.
	u.kubectl("label", "fleet", "classis", "keep=true")
	has(t, u.refused("delete", "fleet", "classis"), `fleet classis is to be kept`)
	u.kubectl("label", "fleet", "classis", "keep-")
	u.kubectl("delete", "fleet", "classis", "old", "empty")
	like(t, u.kubectl("get", "configmap", "log-of-classis", "-o", "jsonpath={.data.last}"), `3 ships of class liburna`)
	u.kubectl("wait", "pods", "-l", "fleet=classis", "--for=delete", "--timeout="+patience.String())
	u.kubectl("delete", "mutatingwebhookconfiguration,validatingwebhookconfiguration", "harbor.celox.test")
	u.kubectl("delete", "crd", "fleets.harbor.celox.test")
	has(t, u.refused("get", "--raw", "/apis/harbor.celox.test"), `the server could not find the requested resource`)
}

// TestHelm installs, upgrades, rolls back, tests and uninstalls a chart with hooks and a definition, with an unmodified Helm.
func TestHelm(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	chart, err := filepath.Abs("../ecosystem/chart")
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	helm := func(args ...string) string {
		t.Helper()
		out, err := u.m.Run(nil, "env", append([]string{"HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home, guest(t, "helm"), "--namespace", u.ns}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	wait := []string{"--wait", "--timeout", patience.String()}
	has(t, helm(append([]string{"install", "mole", chart}, wait...)...), "STATUS: deployed", "REVISION: 1", "mole is built: 2 moorings.")
	like(t, u.kubectl("logs", "mole-pre-install"), `pre-install of revision 1`)
	like(t, u.kubectl("get", "berth", "mole", "-o", "jsonpath={.spec.length}"), `20`)
	like(t, u.kubectl("get", "deployment", "mole"), `NAME READY UP-TO-DATE AVAILABLE AGE`, `mole 2/2 2 2 \S+`)

	helm(append([]string{"upgrade", "mole", chart, "--set", "replicas=3,motto=festina lente"}, wait...)...)
	like(t, u.kubectl("logs", "mole-post-upgrade"), `post-upgrade of revision 2`)
	like(t, u.kubectl("get", "configmap", "mole", "-o", "jsonpath={.data.motto}"), `festina lente`)
	like(t, u.kubectl("get", "deployment", "mole"), `NAME READY UP-TO-DATE AVAILABLE AGE`, `mole 3/3 3 3 \S+`)

	helm(append([]string{"rollback", "mole", "1"}, wait...)...)
	like(t, u.kubectl("get", "configmap", "mole", "-o", "jsonpath={.data.motto}"), `navigare necesse est`)
	like(t, u.kubectl("get", "berth", "mole", "-o", "jsonpath={.spec.length}"), `20`)
	contains(t, helm("history", "mole"), `1 .* superseded .* Install complete`, `2 .* superseded .* Upgrade complete`, `3 .* deployed .* Rollback to 1`)
	has(t, helm("test", "mole"), "Phase:          Succeeded")
	has(t, helm("get", "manifest", "mole"), "kind: Berth")

	has(t, helm(append([]string{"uninstall", "mole"}, wait...)...), `release "mole" uninstalled`)
	has(t, u.refused("get", "deployment", "mole"), fmt.Sprintf("deployments.apps %q not found", "mole"))
	u.kubectl("delete", "crd", "berths.pier.celox.test")
}
