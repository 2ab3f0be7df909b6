package apiserver

import (
	"context"
	"errors"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/celox/celox/internal/apiserver/admission"
)

const merge = "application/merge-patch+json"

// TestScaleOfAnother: a scale that says of which object it is must be right.
func TestScaleOfAnother(t *testing.T) {
	h := newServer(t).Handler()
	const path = "/apis/apps/v1/namespaces/n/deployments"
	want(t, h, 201, "POST", path, `{"metadata":{"name":"d"},"spec":{"replicas":2,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`)
	for _, c := range []struct {
		code             int
		kind, body, told string
	}{
		{409, merge, `{"metadata":{"uid":"x"}}`, `Operation cannot be fulfilled on deployments/scale.apps "d": Precondition failed: UID in precondition: x`},
		{400, merge, `{"metadata":{"namespace":"o"}}`, "the namespace of the provided object does not match the namespace sent on the request"},
		{400, "application/apply-patch+yaml", `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"o"},"spec":{"replicas":3}}`, "the name of the object (o) does not match the name on the URL (d)"},
		{409, "application/apply-patch+yaml", `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"d","uid":"x"},"spec":{"replicas":2}}`, "Precondition failed: UID in precondition: x"},
	} {
		query := ""
		if c.kind != merge {
			query = "?fieldManager=m&force=true"
		}
		got := want(t, h, c.code, "PATCH", path+"/d/scale"+query, c.body, "Content-Type", c.kind)
		if told, _ := at(got, "message").(string); !strings.Contains(told, c.told) {
			t.Errorf("%s: got %q", c.body, told)
		}
	}
}

// TestAmountsAsWritten: an amount that is written in another way is stored that way, even if nothing else changes.
func TestAmountsAsWritten(t *testing.T) {
	h := newServer(t).Handler()
	const path = "/api/v1/namespaces/n/persistentvolumeclaims"
	body := func(size string) string {
		return `{"metadata":{"name":"c"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"` + size + `"}}}}`
	}
	want(t, h, 201, "POST", path, body("2Gi"))
	if got := at(want(t, h, 200, "PUT", path+"/c", body("2147483648")), "spec", "resources", "requests", "storage"); got != "2147483648" {
		t.Errorf("got %v", got)
	}
	if got := at(want(t, h, 200, "GET", path+"/c", ""), "spec", "resources", "requests", "storage"); got != "2147483648" {
		t.Errorf("stored %v", got)
	}
}

// TestEvictionOptions: an eviction says how to delete, and that is checked.
func TestEvictionOptions(t *testing.T) {
	h := newServer(t).Handler()
	const pods = "/api/v1/namespaces/n/pods"
	pod := want(t, h, 201, "POST", pods, `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`)
	evict := func(code int, query, options string) string {
		got := want(t, h, code, "POST", pods+"/p/eviction"+query, `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"},"deleteOptions":`+options+`}`)
		told, _ := at(got, "message").(string)
		return told
	}
	for _, c := range []struct {
		code                   int
		query, options, reason string
	}{
		{422, "", `{"propagationPolicy":"Foo"}`, `propagationPolicy: Unsupported value: "Foo"`},
		{422, "", `{"ignoreStoreReadErrorWithClusterBreakingPotential":true}`, "can not be set for pod eviction, try after removing the option"},
		{500, "?dryRun=All", `{"dryRun":["x"]}`, "Non-matching dry-run options in request and content: [All] and [x]"},
		{409, "", `{"preconditions":{"resourceVersion":"1"}}`, "the ResourceVersion in the precondition (1) does not match"},
	} {
		if got := evict(c.code, c.query, c.options); !strings.Contains(got, c.reason) {
			t.Errorf("%s: got %q", c.options, got)
		}
	}
	if got := want(t, h, 200, "GET", pods+"/p", ""); at(got, "status", "conditions") != nil {
		t.Errorf("what was refused left its mark: %v", at(got, "status"))
	}
	// The mark that an eviction leaves is a version of its own; who asked for the one before meant this pod.
	evict(201, "", `{"preconditions":{"resourceVersion":"`+at(pod, "metadata", "resourceVersion").(string)+`"}}`)
	want(t, h, 404, "GET", pods+"/p", "")
}

// closed refuses everything new, as a namespace that is being deleted does.
type closed struct{}

func (closed) Admit(_ context.Context, a *admission.Attributes) error {
	if a.Operation == admission.Create {
		return apierrors.NewForbidden(a.Resource.GroupResource(), a.Name, errors.New("closed"))
	}
	return nil
}

// TestBindingIsAdmitted: admission is asked before anything of a binding is looked at.
func TestBindingIsAdmitted(t *testing.T) {
	h := newServer(t, func(c *Config) { c.Admission = admission.Chain{closed{}} }).Handler()
	for _, body := range []string{`{"metadata":{"name":"q"},"target":{"name":"n"}}`, `{}`, `{"target":{"kind":"X"}}`} {
		for _, path := range []string{"/bindings", "/pods/p/binding"} {
			want(t, h, 403, "POST", "/api/v1/namespaces/n"+path, body)
		}
	}
}

// TestBindings: the collection of bindings makes bindings as any collection makes objects.
func TestBindings(t *testing.T) {
	h := newServer(t).Handler()
	const ns = "/api/v1/namespaces/n"
	want(t, h, 201, "POST", ns+"/pods", `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`)
	for _, c := range []struct {
		code             int
		path, body, told string
	}{
		{400, "/bindings", `{"target":{"name":"n"}}`, "Name parameter required."},
		{500, "/bindings", `{}`, "target.name: Required value"}, // what is bound is looked at before its name
		{400, "/pods/p/binding", `{}`, "name in URL does not match name in Binding object"},
		{500, "/bindings", `{"metadata":{"name":"p"},"target":{"name":"N_"}}`, "target.name: Invalid value: \"N_\""},
		{409, "/pods/p/binding", `{"metadata":{"name":"p","uid":"x"},"target":{"name":"n"}}`, "Key: /registry/pods/n/p, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: x, UID in object meta: "},
		{409, "/pods/p/binding", `{"metadata":{"name":"p","resourceVersion":"1"},"target":{"name":"n"}}`, "Precondition failed: ResourceVersion in precondition: 1, ResourceVersion in object meta: "},
	} {
		got, _ := at(want(t, h, c.code, "POST", ns+c.path, c.body), "message").(string)
		if !strings.Contains(got, c.told) {
			t.Errorf("%s: got %q", c.body, got)
		}
	}
	want(t, h, 201, "POST", ns+"/bindings", `{"metadata":{"name":"p","uid":"x"},"target":{"name":"n"}}`)
}

// TestFinalizeDoor: through this door a namespace changes like through the main one, but for its status.
func TestFinalizeDoor(t *testing.T) {
	h := newServer(t).Handler()
	want(t, h, 201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"a"}}`)
	got := want(t, h, 200, "PUT", "/api/v1/namespaces/a/finalize", `{"metadata":{"name":"a","labels":{"x":"y"}},"spec":{"finalizers":["e.com/f"]},"status":{"phase":"Terminating"}}`)
	if at(got, "metadata", "labels", "x") != "y" || at(got, "spec", "finalizers", 0) != "e.com/f" || at(got, "status", "phase") != "Active" {
		t.Errorf("got %v", got)
	}
	got = want(t, h, 422, "PUT", "/api/v1/namespaces/a/finalize", `{"metadata":{"name":"a"},"spec":{"finalizers":["e.com/f","A B"]}}`)
	for i := range 2 {
		if at(got, "details", "causes", i, "field") != "spec.finalizers[1]" {
			t.Errorf("got %v", got)
		}
	}
}

// TestFinalizersOfDoors: which door wants the domains of finalizers.
func TestFinalizersOfDoors(t *testing.T) {
	h := newServer(t).Handler()
	want(t, h, 201, "POST", "/api/v1/namespaces/n/events", `{"metadata":{"name":"e"},"involvedObject":{"namespace":"n"}}`)
	want(t, h, 201, "POST", "/apis/batch/v1/namespaces/n/cronjobs",
		`{"metadata":{"name":"c"},"spec":{"schedule":"* * * * *","jobTemplate":{"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}}}}`)
	const patch = `{"metadata":{"finalizers":["x"]}}`
	for _, c := range []struct {
		code int
		path string
	}{
		{422, "/apis/events.k8s.io/v1/namespaces/n/events/e"}, {200, "/api/v1/namespaces/n/events/e"},
		{422, "/apis/batch/v1/namespaces/n/cronjobs/c"}, {200, "/apis/batch/v1/namespaces/n/cronjobs/c/status"},
	} {
		want(t, h, c.code, "PATCH", c.path, patch, "Content-Type", merge)
	}
}
