package apiserver

import (
	"strings"
	"testing"
)

// TestReadableAnnotations: annotations that stand for fields of another time have to be readable, and each way to write says so in its own words.
func TestReadableAnnotations(t *testing.T) {
	const (
		base     = "/apis/apps/v1/namespaces/n/"
		spec     = `"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}`
		to       = "deprecated.deployment.rollback.to"
		template = "deprecated.daemonset.template.generation"
	)
	h := newServer(t).Handler()
	want(t, h, 201, "POST", base+"deployments", `{"metadata":{"name":"d"},`+spec+`}`)
	want(t, h, 201, "POST", base+"daemonsets", `{"metadata":{"name":"d"},`+spec+`}`)
	noted := func(name, key, value string) string {
		return `"metadata":{"name":"` + name + `","annotations":{"` + key + `":"` + value + `"}}`
	}
	const rollback = `failed to parse annotation[` + to + `]=x as int64: strconv.ParseInt: parsing "x": invalid syntax`
	for _, c := range []struct {
		name, method, path, media, body string
		code                            int
		told                            string
	}{
		{"create", "POST", "deployments", "application/json", `{` + noted("e", to, "x") + `,` + spec + `}`, 400, `Deployment in version "v1" cannot be handled as a Deployment: ` + rollback},
		{"update", "PUT", "deployments/d", "application/json", `{` + noted("d", to, "x") + `,` + spec + `}`, 400, `Deployment in version "v1" cannot be handled as a Deployment: ` + rollback},
		{"status", "PUT", "deployments/d/status", "application/json", `{` + noted("d", to, "x") + `,` + spec + `}`, 400, rollback},
		{"merge patch", "PATCH", "deployments/d", "application/merge-patch+json", `{` + noted("d", to, "x") + `}`, 422, `"status\":{}}": ` + rollback},
		{"JSON patch", "PATCH", "deployments/d", "application/json-patch+json", `[{"op":"add","path":"/metadata/annotations","value":{"` + to + `":"x"}}]`, 422, rollback},
		{"strategic merge patch", "PATCH", "deployments/d", "application/strategic-merge-patch+json", `{` + noted("d", to, "x") + `}`, 500, rollback},
		{"apply", "PATCH", "deployments/d?fieldManager=m&force=true", "application/apply-patch+yaml", `{"apiVersion":"apps/v1","kind":"Deployment",` + noted("d", to, "x") + `,` + spec + `}`, 500, "failed to convert to unversioned (/d; apps/v1, Kind=Deployment): " + rollback},
		{"too small", "POST", "deployments", "application/json", `{` + noted("e", to, "-1") + `,` + spec + `}`, 422, "spec.rollback.version: Invalid value: -1: must be greater than or equal to 0"},
		{"daemon sets", "POST", "daemonsets", "application/json", `{` + noted("e", template, "") + `,` + spec + `}`, 400, `DaemonSet in version "v1" cannot be handled as a DaemonSet: strconv.ParseInt: parsing "": invalid syntax`},
		{"patched daemon sets", "PATCH", "daemonsets/d", "application/merge-patch+json", `{` + noted("d", template, "x") + `}`, 422, `strconv.ParseInt: parsing "x": invalid syntax`},
	} {
		got, _ := at(want(t, h, c.code, c.method, base+c.path, c.body, "Content-Type", c.media), "message").(string)
		if !strings.Contains(got, c.told) {
			t.Errorf("%s: got %s", c.name, got)
		}
	}
	made := want(t, h, 201, "POST", base+"deployments", `{`+noted("empty", to, "")+`,`+spec+`}`)
	if at(made, "metadata", "annotations") != nil {
		t.Errorf("an annotation that says nothing stayed: %v", made)
	}
	made = want(t, h, 201, "POST", base+"deployments", `{`+noted("full", to, "3")+`,`+spec+`}`)
	if at(made, "metadata", "annotations", to) != "3" {
		t.Errorf("got %v", made)
	}
	made = want(t, h, 200, "PUT", base+"deployments/full", `{`+noted("full", to, "+03")+`,`+spec+`}`)
	if at(made, "metadata", "annotations", to) != "3" || at(made, "metadata", "generation") != 1.0 {
		t.Errorf("a number written in another way: %v", made)
	}
	made = want(t, h, 200, "PUT", base+"deployments/full/status", `{`+noted("full", to, "4")+`,`+spec+`}`)
	if at(made, "metadata", "annotations", to) != "3" {
		t.Errorf("changed through the status: %v", made)
	}
}

// TestCreateByApply: applying what isn't there makes it, unless the configuration names one that has been there; versions have to be numbers.
func TestCreateByApply(t *testing.T) {
	h := newServer(t).Handler()
	apply := func(code int, meta string) map[string]any {
		t.Helper()
		return want(t, h, code, "PATCH", configMaps+"/a?fieldManager=m", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"`+meta+`}}`, "Content-Type", "application/apply-patch+yaml")
	}
	if got := at(apply(409, `,"uid":"u"`), "message"); got != `Operation cannot be fulfilled on configmaps "a": uid mismatch: the provided object specified uid u, and no existing object was found` {
		t.Error(got)
	}
	if got := at(apply(500, `,"resourceVersion":"x"`), "message"); got != `strconv.ParseUint: parsing "x": invalid syntax` {
		t.Error(got)
	}
	apply(201, `,"resourceVersion":"5"`)
	want(t, h, 500, "PUT", "/apis/coordination.k8s.io/v1/namespaces/n/leases/l", `{"metadata":{"name":"l","resourceVersion":" 5"}}`)
	if got := want(t, h, 201, "POST", configMaps+"?dryRun=All", `{"metadata":{"name":"b","resourceVersion":"5"}}`); at(got, "metadata", "resourceVersion") != "5" {
		t.Errorf("got %v", got)
	}
}
