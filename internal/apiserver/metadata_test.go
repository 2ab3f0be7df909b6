package apiserver

import (
	"slices"
	"strings"
	"testing"
)

const complainedOf = "/api/v1/namespaces/default/"

// causes are the complaints in a refusal, in order.
func causes(answer map[string]any) []string {
	var out []string
	list, _ := at(answer, "details", "causes").([]any)
	for _, c := range list {
		field, _ := at(c, "field").(string)
		text, _ := at(c, "message").(string)
		out = append(out, field+": "+text)
	}
	return out
}

// TestComplaintsAreToldOnce: several checks look at an updated object's metadata; a client hears of what is wrong with it once.
func TestComplaintsAreToldOnce(t *testing.T) {
	s := newServer(t)
	const rc = `{"metadata":{"name":"r","labels":{"a":"%"}},"spec":{"selector":{"a":"b"},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`
	want(t, s.Handler(), 201, "POST", complainedOf+"replicationcontrollers", strings.Replace(rc, "%", "b", 1))
	got := causes(want(t, s.Handler(), 422, "PUT", complainedOf+"replicationcontrollers/r", strings.Replace(rc, "%", "no label", 1)))
	if len(got) != 1 || !strings.HasPrefix(got[0], `metadata.labels: Invalid value: "no label"`) {
		t.Errorf("causes %q", got)
	}
}

// TestOwnersThatAreNone: each reference is complained of where it stands, and what it lacks is named.
func TestOwnersThatAreNone(t *testing.T) {
	s := newServer(t)
	got := causes(want(t, s.Handler(), 422, "POST", complainedOf+"configmaps",
		`{"metadata":{"name":"c","ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u"},{"apiVersion":"a/b/c","kind":"","name":"n","uid":""}]}}`))
	if !slices.Equal(got, []string{
		`metadata.ownerReferences[1].apiVersion: Invalid value: "a/b/c": must be <group>/<version> or <version>`,
		`metadata.ownerReferences[1].kind: Required value: must not be empty`,
		`metadata.ownerReferences[1].uid: Required value: must not be empty`,
	}) {
		t.Errorf("causes %q", got)
	}
}

// TestPrefixesOfUpdatedNames: of some kinds all is checked again when they change, the prefix of the name included.
func TestPrefixesOfUpdatedNames(t *testing.T) {
	s := newServer(t)
	for resource, c := range map[string]struct {
		body string
		code int
	}{
		"configmaps": {`{"metadata":{"name":"x","generateName":"%"}}`, 422},
		"services":   {`{"metadata":{"name":"x","generateName":"%"},"spec":{"ports":[{"port":1}]}}`, 200},
	} {
		want(t, s.Handler(), 201, "POST", complainedOf+resource, strings.Replace(c.body, "%", "", 1))
		want(t, s.Handler(), c.code, "PUT", complainedOf+resource+"/x", strings.Replace(c.body, "%", "BAD_", 1))
	}
}
