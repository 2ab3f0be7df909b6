package apiserver

import (
	"net/http"
	"strings"
	"testing"
)

// TestAnswers: questions that few clients ask are answered in upstream's words.
func TestAnswers(t *testing.T) {
	h := newServer(t).Handler()
	const (
		table   = "application/json;as=Table;v=v1;g=meta.k8s.io"
		merge   = "application/merge-patch+json"
		cm      = `{"metadata":{"name":"a"},"data":{"k":"v"}}`
		crd     = `{"metadata":{"name":"things.a.example.com"},"spec":{"group":"a.example.com","scope":"Namespaced","names":{"plural":"things","kind":"Thing"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]}}`
		crds    = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
		reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
		job     = "/apis/batch/v1/namespaces/n/jobs"
		rules   = "/apis/resource.k8s.io/v1/devicetaintrules"
		deploy  = "/apis/apps/v1/namespaces/n/deployments"
		classes = "/apis/storage.k8s.io/v1/storageclasses"
	)
	want(t, h, 201, "POST", configMaps, cm)
	want(t, h, 201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"m"}}`)
	want(t, h, 201, "POST", crds, crd)
	want(t, h, 201, "POST", rules, `{"metadata":{"name":"r"},"spec":{"taint":{"key":"k","effect":"NoExecute"}}}`)
	want(t, h, 201, "POST", classes, `{"metadata":{"name":"c","annotations":{"storageclass.kubernetes.io/is-default-class":"true"}},"provisioner":"a/b"}`)
	want(t, h, 201, "POST", deploy, `{"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`)
	for _, c := range []struct {
		name, method, path, body string
		header                   []string
		code                     int
		want                     string
	}{
		{"a kind in capitals", "PATCH", configMaps + "/a?dryRun=All", `{"kind":null,"KIND":"ConfigMap"}`, []string{"Content-Type", merge}, 200, `"kind":"ConfigMap"`},
		{"another kind in capitals", "PATCH", configMaps + "/a?dryRun=All", `{"kind":null,"KIND":"Service"}`, []string{"Content-Type", merge}, 422, "converting (v1.Service) to (core.ConfigMap): unknown conversion"},
		{"another version in capitals", "PATCH", configMaps + "/a?dryRun=All", `{"apiVersion":null,"APIVERSION":"v2"}`, []string{"Content-Type", merge}, 422, `no kind \"ConfigMap\" is registered for version \"v2\"`},
		{"a version in capitals, and a field", "PATCH", configMaps + "/a?dryRun=All&fieldValidation=Strict", `{"apiVersion":null,"ApiVersion":"v1","Data":{}}`, []string{"Content-Type", merge}, 422, `strict decoding error: unknown field \"ApiVersion\", unknown field \"Data\""`},
		{"a kind whose selectors know no namespace", "GET", "/api/v1/nodes?fieldSelector=metadata.namespace%3Da", "", nil, 400, "field label not supported: metadata.namespace"},
		{"nor do those of requests for pods' certificates", "GET", "/apis/certificates.k8s.io/v1/podcertificaterequests?fieldSelector=metadata.namespace%3Da", "", nil, 400, "field label not supported: metadata.namespace"},
		{"a kind without fields of its own knows it", "GET", "/api/v1/persistentvolumes?fieldSelector=metadata.namespace%3Da", "", nil, 200, `"items":[]`},
		{"jobs have words of their own", "GET", job + "?fieldSelector=x%3Da", "", nil, 400, `field label \"x\" not supported for Job`},
		{"slices too", "GET", "/apis/resource.k8s.io/v1/resourceslices?fieldSelector=x%3Da", "", nil, 400, "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: x"},
		{"a precondition of a namespace", "DELETE", "/api/v1/namespaces/m", `{"preconditions":{"uid":"x"}}`, nil, 409, `namespaces \"m\": Precondition failed: UID in precondition: x, UID in object meta: `},
		{"a precondition of a definition", "DELETE", crds + "/things.a.example.com", `{"preconditions":{"resourceVersion":"1"}}`, nil, 409, `precondition failed: ResourceVersion in precondition: 1, ResourceVersion in object meta: `},
		{"a namespace with its dependents", "DELETE", "/api/v1/namespaces/m?dryRun=All&propagationPolicy=Foreground", "", nil, 200, `"finalizers":["foregroundDeletion"]`},
		{"preconditions in the query", "DELETE", configMaps + "/a?resourceVersion=1", "", nil, 409, "the ResourceVersion in the precondition (1) does not match"},
		{"a uid in the query", "DELETE", configMaps + "/a?uid=x", "", nil, 409, "the UID in the precondition (x) does not match"},
		{"an empty grace period", "DELETE", configMaps + "/a?gracePeriodSeconds=", "", nil, 400, `strconv.ParseInt: parsing \"\": invalid syntax`},
		{"an empty propagation policy", "DELETE", configMaps + "/a?propagationPolicy=", "", nil, 422, `propagationPolicy: Unsupported value: \"\"`},
		{"options of no group version", "DELETE", configMaps + "/a", `{"kind":"DeleteOptions","apiVersion":"a/b/c"}`, nil, 400, "unexpected GroupVersion string: a/b/c"},
		{"an object that can be read", "DELETE", configMaps + "/a?ignoreStoreReadErrorWithClusterBreakingPotential=true", "", nil, 409, "Key: /registry/configmaps/n/a, ResourceVersion: 0, AdditionalErrorMsg: unsafe deletion is not allowed"},
		{"all objects, readable or not", "DELETE", configMaps, `{"ignoreStoreReadErrorWithClusterBreakingPotential":true}`, nil, 422, "is not allowed with DELETECOLLECTION"},
		{"an empty limit", "GET", configMaps + "?limit=", "", nil, 400, `strconv.ParseInt: parsing \"\": invalid syntax`},
		{"a bad token and a version", "GET", configMaps + "?continue=x&resourceVersion=1", "", nil, 400, "invalid continue token"},
		{"an error in the shape of a table", "GET", configMaps + "/nosuch", "", []string{"Accept", "application/yaml;as=Table;v=v1;g=meta.k8s.io"}, 404, "{\n  \"kind\": \"Status\""},
		{"an error in the second choice", "GET", configMaps + "/nosuch", "", []string{"Accept", table + ",application/yaml"}, 404, "apiVersion: v1"},
		{"an unknown stream", "GET", configMaps, "", []string{"Accept", "application/json;stream=x"}, 406, "only the following media types are accepted: application/json, application/yaml"},
		{"a media type in capitals", "GET", configMaps + "/a", "", []string{"Accept", "APPLICATION/JSON"}, 406, "406: Not Acceptable"},
		{"an answer nobody can read is refused in words for people", "GET", configMaps + "/a", "", []string{"Accept", "text/html"}, 406, "{\n  \"kind\": \"Status\""},
		{"a patch of no type, and an answer nobody can read", "PATCH", configMaps + "/a", "{}", []string{"Accept", "text/html"}, 415, "415: Unsupported Media Type"},
		{"a selector of no field", "GET", configMaps + "?fieldSelector=%3Dx", "", nil, 400, `\"\" is not a known field selector`},
		{"a list nobody can read", "GET", configMaps, "", []string{"Accept", "text/html"}, 406, "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"},
		{"a watch in YAML", "GET", configMaps + "?watch=1&timeoutSeconds=1", "", []string{"Accept", "application/yaml"}, 406, "only the following media types are accepted: application/json;stream=watch"},
		{"a watch in the second choice", "GET", configMaps + "?watch=1&resourceVersion=x", "", []string{"Accept", "application/yaml,application/json"}, 500, "invalid"},
		{"an old path of watches, where options are those of lists", "GET", "/api/v1/watch/namespaces/n/configmaps?sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=0", "", nil, 422, "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"},
		{"metadata of nothing", "GET", "/api/v1/namespaces/n/secrets", "", []string{"Accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}, 200, `"items":null}`},
		{"a definition as a row", "GET", crds + "/things.a.example.com", "", []string{"Accept", table}, 200, `"Namespaced","v1(storage)"`},
		{"requests for pods' certificates as rows", "GET", "/apis/certificates.k8s.io/v1/podcertificaterequests", "", []string{"Accept", table}, 200, `"name":"UnverifiedUserAnnotations"`},
		{"the default class in a list", "GET", classes, "", []string{"Accept", table}, 200, `"cells":["c (default)","a/b"`},
		{"the default class in a list for people", "GET", classes + "?pretty=true", "", []string{"Accept", table}, 200, `"c (default)"`},
		{"the default class by itself", "GET", classes + "/c", "", []string{"Accept", table}, 200, `"cells":["c","a/b"`},
		{"what types declare is told last", "POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", `{"metadata":{"name":"b"},"subjects":[{"name":"s"}]}`, nil, 422, `supported values: \"ServiceAccount\", \"User\", \"Group\", roleRef.name: Required value]`},
		{"a taken name that could have been generated", "POST", classes, `{"metadata":{"name":"c","generateName":"x"},"provisioner":"a/b"}`, nil, 409, `\"c\" already exists, the server was not able to generate a unique name for the object`},
		{"what an address belongs to", "POST", "/apis/networking.k8s.io/v1/ipaddresses", `{"metadata":{"name":"10.0.0.9"},"spec":{"parentRef":{"namespace":"a/b"}}}`, nil, 422,
			`spec.parentRef.namespace: Invalid value: \"a/b\": may not contain '/', spec.parentRef.resource: Required value, spec.parentRef.name: Required value`},
		{"a name whose form types declare", "POST", "/apis/resource.k8s.io/v1/deviceclasses", `{"metadata":{"name":"C_"},"spec":{"selectors":[{}],"config":[{"opaque":{"driver":"","parameters":{}}}]}}`, nil, 422,
			`DeviceClass.resource.k8s.io \"C_\" is invalid: [spec.selectors[0].cel: Required value, metadata.name: Invalid value`},
		{"an empty condition list of a definition", "PATCH", crds + "/things.a.example.com/status?dryRun=All", `{"status":{"conditions":[]}}`, []string{"Content-Type", merge}, 200, `"conditions":[]`},
		{"pretty ends as it is written", "GET", configMaps + "/a?pretty=true", "", nil, 200, "\n}"},
		{"pretty needs a truth", "GET", configMaps + "/a?pretty=x", "", nil, 200, `{"kind":"ConfigMap","apiVersion":"v1"`},
		{"a name where none belongs", "POST", "/api/v1/namespaces/n/endpoints/a", "{}", nil, 405, "does not allow this method"},
		{"an event says what is wrong with events first", "POST", "/api/v1/namespaces/n/events", "{}", nil, 422, `Event \"\" is invalid: involvedObject.namespace: Invalid value: \"\": does not match event.namespace"`},
		{"a newer event is named among the rest", "POST", "/apis/events.k8s.io/v1/namespaces/n/events", "{}", nil, 422, `metadata.name: Required value: name or generateName is required, eventTime: Required value`},
		{"a list is read as a list first", "POST", configMaps, `{"kind":"ConfigMapList","apiVersion":"v1","items":"x"}`, nil, 400, "cannot unmarshal string into Go struct field ConfigMapList.items"},
		{"another kind", "POST", deploy, `{"kind":"DeleteOptions","apiVersion":"apps/v1"}`, nil, 400, "converting (v1.DeleteOptions) to (apps.Deployment)"},
		{"a Scale of an old group is read as one", "PUT", deploy + "/d/scale", `{"kind":"Scale","apiVersion":"extensions/v1beta1","metadata":{"name":"d"},"spec":"x"}`, nil, 400, "of type v1beta1.ScaleSpec"},
		{"and refused then", "PUT", deploy + "/d/scale", `{"kind":"Scale","apiVersion":"extensions/v1beta1","metadata":{"name":"d"}}`, nil, 400, "the API version in the data (extensions/v1beta1) does not match the expected API version (autoscaling/v1)"},
		{"its unknown fields come first", "PUT", deploy + "/d/scale?fieldValidation=Strict", `{"kind":"Scale","apiVersion":"extensions/v1beta1","metadata":{"name":"d"},"x":1}`, nil, 400, `strict decoding error: unknown field \"x\"`},
		{"a version that is none", "PUT", deploy + "/d/scale", `{"kind":"Scale","apiVersion":"a/b/c","x":1}`, nil, 400, "unexpected GroupVersion string: a/b/c"},
		{"a patch that leaves no version", "PATCH", configMaps + "/a", `{"apiVersion":["v1"]}`, []string{"Content-Type", merge}, 422, "couldn't get version/kind; json parse error"},
		{"a patch that leaves a bad version", "PATCH", configMaps + "/a", `{"apiVersion":"a/b/c"}`, []string{"Content-Type", merge}, 422, "unexpected GroupVersion string: a/b/c"},
		{"an apply of what is no amount", "PATCH", "/api/v1/namespaces/n/resourcequotas/q?fieldManager=m", `{"apiVersion":"v1","kind":"ResourceQuota","spec":{"hard":{"pods":"x"}}}`, []string{"Content-Type", "application/apply-patch+yaml"}, 500, "to proper version: unable to convert unstructured object to /v1, Kind=ResourceQuota"},
		{"an empty protobuf body", "POST", configMaps, "", []string{"Content-Type", "application/vnd.kubernetes.protobuf"}, 400, "(must be of type ConfigMap): empty data ("},
		{"a protobuf body of nothing", "POST", configMaps, "k8s\x00", []string{"Content-Type", "application/vnd.kubernetes.protobuf"}, 400, "(must be of type ConfigMap): empty body (6b387300)"},
		{"a question about nothing", "POST", reviews, "{}", nil, 422, `spec: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified`},
		{"an update of a taint rule needs its version", "PUT", rules + "/r", `{"metadata":{"name":"r"},"spec":{"taint":{"key":"k","effect":"NoExecute"}}}`, nil, 422, "metadata.resourceVersion: Invalid value: 0: must be specified for an update"},
		{"a runtime class can be made by an update", "PUT", "/apis/node.k8s.io/v1/runtimeclasses/x", `{"metadata":{"name":"x"},"handler":"h"}`, nil, 201, `"handler":"h"`},
		{"commands are not put", "PUT", "/api/v1/namespaces/n/pods/p/exec", "{}", nil, 405, "does not allow this method"},
		{"logs are only read", "POST", "/api/v1/namespaces/n/pods/p/log", "{}", nil, 405, "does not allow this method"},
	} {
		w := call(t, h, c.method, c.path, c.body, c.header...)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s: %s %s: %d %.600s, want %d %s", c.name, c.method, c.path, w.Code, w.Body, c.code, c.want)
		}
		if strings.HasPrefix(c.name, "a name where") && w.Header().Get("Warning") != "" {
			t.Errorf("%s is warned of: %s", c.path, w.Header())
		}
		if strings.HasPrefix(c.name, "pretty ends") && strings.HasSuffix(w.Body.String(), "\n") {
			t.Errorf("%s ends with a newline", c.path)
		}
	}
	w := call(t, h, "GET", configMaps, "", "X-User", "dave")
	if w.Code != http.StatusForbidden || w.Header().Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	w = call(t, h, "DELETE", job+"?labelSelector=a", "")
	if w.Code != http.StatusOK || !strings.Contains(w.Header().Get("Warning"), "child pods are preserved by default") {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}
