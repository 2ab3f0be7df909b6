package apiserver

import (
	"strings"
	"testing"
)

const (
	mapsPath  = "/api/v1/namespaces/default/configmaps"
	applyYAML = "application/apply-patch+yaml"
	mergeJSON = "application/merge-patch+json"
)

// TestAppliedNames: a configuration names what it makes.
func TestAppliedNames(t *testing.T) {
	h := newServer(t).Handler()
	for _, c := range []struct {
		meta string
		code int
	}{
		{`{}`, 400}, {`{"name":""}`, 400}, {`{"name":"b"}`, 400}, {`{"name":"a","namespace":"other"}`, 400}, {`{"name":"a"}`, 201}, {`{}`, 200}, {`{"name":""}`, 400},
	} {
		got := want(t, h, c.code, "PATCH", mapsPath+"/a?fieldManager=m", `{"apiVersion":"v1","kind":"ConfigMap","metadata":`+c.meta+`}`, "Content-Type", applyYAML)
		if strings.Contains(c.meta, "other") || c.code != 400 || strings.Contains(c.meta, "b") {
			continue
		}
		if got["message"] != "the name of the object (a based on URL) was undeterminable: name must be provided" {
			t.Errorf("%s: %v", c.meta, got["message"])
		}
	}
}

// TestOwnersTwice: each repetition is named; a patch is looked at after admission only.
func TestOwnersTwice(t *testing.T) {
	h := newServer(t).Handler()
	const owner = `{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u"}`
	const owners = `"ownerReferences":[` + owner + `,` + owner + `,` + owner + `]`
	const rest = "; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: u, u\""
	for _, c := range []struct{ verb, path, body, media, after string }{
		{"POST", mapsPath, `{"metadata":{"name":"a",` + owners + `}}`, "application/json", ""},
		{"PUT", mapsPath + "/a", `{"metadata":{"name":"a",` + owners + `}}`, "application/json", ""},
		{"PATCH", mapsPath + "/a", `{"metadata":{` + owners + `}}`, mergeJSON, " after mutating admission happens"},
	} {
		w := call(t, h, c.verb, c.path, c.body, "Content-Type", c.media)
		if got := w.Header().Values("Warning"); len(got) != 1 || got[0] != `299 - ".metadata.ownerReferences contains duplicate entries`+c.after+rest {
			t.Errorf("%s: %q", c.verb, got)
		}
	}
}

// TestAppliedScale: the fields of a Scale are known.
func TestAppliedScale(t *testing.T) {
	h := newServer(t).Handler()
	const deployments = "/apis/apps/v1/namespaces/default/deployments"
	want(t, h, 201, "POST", deployments, `{"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`)
	scale := func(code int, spec, message string) {
		t.Helper()
		got := want(t, h, code, "PATCH", deployments+"/d/scale?fieldManager=m&force=true", `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"d"},"spec":`+spec+`}`, "Content-Type", applyYAML)
		if text, _ := got["message"].(string); !strings.HasSuffix(text, message) {
			t.Errorf("%s: %s, want %s", spec, text, message)
		}
	}
	scale(200, `{"replicas":3}`, "")
	scale(500, `{"replicas":3,"more":1}`, ".spec.more: field not declared in schema")
	scale(500, `{"replicas":"x"}`, ".spec.replicas: expected numeric (int or float), got string")
	scale(500, `{"replicas":1.5}`, "unable to convert unstructured object to autoscaling/v1, Kind=Scale: cannot convert float64 to int32")
}

// TestCustomNumbers: a whole number is the same however it is written, so that writing it otherwise changes nothing that is stored.
func TestCustomNumbers(t *testing.T) {
	s := newServer(t)
	runCustoms(t, s)
	h := s.Handler()
	want(t, h, 201, "POST", benchDefinitions, `{"metadata":{"name":"nums.test.example.com"},"spec":{"group":"test.example.com","scope":"Namespaced","names":{"plural":"nums","kind":"Num"},`+
		`"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"n":{"type":"number"},"bare":{"type":"object"}}}}}]}}`)
	awaitCustom(t, s, "nums", "test.example.com", true)
	const nums = "/apis/test.example.com/v1/namespaces/default/nums"
	const head = `{"apiVersion":"test.example.com/v1","kind":"Num","metadata":{"name":"a"}`
	want(t, h, 201, "POST", nums, head+`,"n":1.0}`)
	if got := want(t, h, 200, "PATCH", nums+"/a", `{"n":1}`, "Content-Type", mergeJSON); at(got, "metadata", "generation") != 1.0 {
		t.Errorf("1 is not 1.0: %v", got)
	}
	applied := want(t, h, 200, "PATCH", nums+"/a?fieldManager=m&force=true", head+`,"n":2e0,"bare":{"more":1}}`, "Content-Type", applyYAML)
	if at(applied, "metadata", "generation") != 2.0 || at(applied, "bare", "more") != nil {
		t.Errorf("applied %v", applied)
	}
	if w := call(t, h, "PATCH", nums+"/a", `{`, "Content-Type", mergeJSON); w.Code != 400 || !strings.Contains(w.Body.String(), `"invalid JSON patch"`) {
		t.Errorf("half a patch: %d %s", w.Code, w.Body)
	}
	owner := want(t, h, 422, "PATCH", nums+"/a?fieldManager=m", `{"apiVersion":"test.example.com/v1","kind":"Num","metadata":{"name":"a","ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p"}]}}`, "Content-Type", applyYAML)
	if text, _ := owner["message"].(string); !strings.Contains(text, "metadata.ownerReferences[0].uid: Required value: must not be empty") {
		t.Errorf("an owner without UID: %s", text)
	}
}

// TestAppliedNothing: applying what there is already changes nothing, though the version has defaults that the stored version does not know.
func TestAppliedNothing(t *testing.T) {
	s := newServer(t)
	runCustoms(t, s)
	h := s.Handler()
	version := func(name, storage, field string) string {
		return `{"name":"` + name + `","served":true,"storage":` + storage + `,"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{"a":{"type":"string"},` + field + `}}}}}}`
	}
	want(t, h, 201, "POST", benchDefinitions, `{"metadata":{"name":"twos.test.example.com"},"spec":{"group":"test.example.com","scope":"Namespaced","names":{"plural":"twos","kind":"Two"},`+
		`"versions":[`+version("v1", "true", `"one":{"type":"string"}`)+`,`+version("v2", "false", `"two":{"type":"string","default":"2"}`)+`]}}`)
	awaitCustom(t, s, "twos", "test.example.com", true)
	for i, c := range []struct {
		spec       string
		generation float64
	}{{`{"a":"x"}`, 1}, {`{"a":"x"}`, 1}, {`{"a":"y"}`, 2}, {`{"a":"y"}`, 2}} {
		code := 200
		if i == 0 {
			code = 201
		}
		got := want(t, h, code, "PATCH", "/apis/test.example.com/v2/namespaces/default/twos/a?fieldManager=m", `{"apiVersion":"test.example.com/v2","kind":"Two","metadata":{"name":"a"},"spec":`+c.spec+`}`, "Content-Type", applyYAML)
		if at(got, "metadata", "generation") != c.generation {
			t.Errorf("%d, %s: %v, want generation %v", i, c.spec, got, c.generation)
		}
	}
}

// TestAppliedDeletion: nobody makes an object that is being deleted, through no door.
func TestAppliedDeletion(t *testing.T) {
	h := newServer(t).Handler()
	const meta = `"deletionTimestamp":"2020-01-01T00:00:00Z","deletionGracePeriodSeconds":5`
	for _, c := range []struct{ verb, path, name, media string }{
		{"POST", mapsPath, "a", "application/json"},
		{"PATCH", mapsPath + "/b?fieldManager=m", "b", applyYAML},
	} {
		got := want(t, h, 201, c.verb, c.path, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"`+c.name+`",`+meta+`}}`, "Content-Type", c.media)
		m, _ := got["metadata"].(map[string]any)
		if m["deletionTimestamp"] != nil || m["deletionGracePeriodSeconds"] != nil {
			t.Errorf("%s: %v", c.verb, m)
		}
	}
}

// TestLateMetadata: the metadata of an event or a disruption budget is looked at when all else is right, and then all of it.
func TestLateMetadata(t *testing.T) {
	h := newServer(t).Handler()
	const events, budgets, labels = "/api/v1/namespaces/default/events", "/apis/policy/v1/namespaces/default/poddisruptionbudgets", `"labels":{"a":"b c"}`
	const bad = `metadata.labels: Invalid value: "b c": a valid label must be`
	for _, c := range []struct{ path, body, want, not string }{
		{events, `{"metadata":{"name":"a",` + labels + `},"involvedObject":{"namespace":"default"}}`, bad, "involvedObject"},
		{events, `{"metadata":{"name":"a",` + labels + `},"involvedObject":{"namespace":"other"}}`, "involvedObject.namespace", "metadata.labels"},
		{events, `{"metadata":{"name":"a","generation":-1},"involvedObject":{"namespace":"default"}}`, "metadata.generation: Invalid value: -1", "involvedObject"},
		{budgets, `{"metadata":{"name":"a",` + labels + `},"spec":{"minAvailable":1}}`, bad, "spec"},
		{budgets, `{"metadata":{"name":"a",` + labels + `},"spec":{"minAvailable":-1}}`, "spec.minAvailable", "metadata.labels"},
		{"/apis/events.k8s.io/v1/namespaces/default/events", `{"metadata":{"name":"a","finalizers":["x"]},"eventTime":"2026-01-01T00:00:00.000000Z","type":"Normal","action":"a","reason":"r","reportingController":"c","reportingInstance":"i"}`,
			`metadata.finalizers[0]: Invalid value: "x": name is neither a standard finalizer name nor is it fully qualified`, "action"},
	} {
		got, _ := want(t, h, 422, "POST", c.path, c.body)["message"].(string)
		if !strings.Contains(got, c.want) || strings.Contains(got, c.not) {
			t.Errorf("%s: %s", c.body, got)
		}
	}
}

// TestNamesOfServices: the name of an APIService is looked at with each change, for its group may have changed.
func TestNamesOfServices(t *testing.T) {
	h := newServer(t).Handler()
	const path, rest = "/apis/apiregistration.k8s.io/v1/apiservices", `"groupPriorityMinimum":1,"versionPriority":1,"service":{"namespace":"n","name":"s"},"insecureSkipTLSVerify":true}}`
	want(t, h, 201, "POST", path, `{"metadata":{"name":"v1.a.b"},"spec":{"group":"a.b","version":"v1",`+rest)
	want(t, h, 200, "PATCH", path+"/v1.a.b", `{"spec":{"versionPriority":2}}`, "Content-Type", mergeJSON)
	want(t, h, 422, "PATCH", path+"/v1.a.b", `{"spec":{"group":"c.d"}}`, "Content-Type", mergeJSON)
}

// TestWarnedStatus: who reports addresses in an unusual form is told so.
func TestWarnedStatus(t *testing.T) {
	h := newServer(t).Handler()
	const services = "/api/v1/namespaces/default/services"
	want(t, h, 201, "POST", services, `{"metadata":{"name":"s"},"spec":{"type":"LoadBalancer","ports":[{"port":80}]}}`)
	w := call(t, h, "PATCH", services+"/s/status", `{"status":{"loadBalancer":{"ingress":[{"ip":"FD00::1"}]}}}`, "Content-Type", mergeJSON)
	if got := w.Header().Values("Warning"); w.Code != 200 || len(got) != 1 || !strings.Contains(got[0], "RFC 5952") {
		t.Errorf("%d %q", w.Code, got)
	}
}
