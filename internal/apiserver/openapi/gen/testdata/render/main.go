package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/catalogue"
	"github.com/celox/celox/internal/apiserver/openapi/gen/definitions"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	c, err := catalogue.New()
	if err != nil {
		return err
	}
	docs := documents(c)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	out := &output{dir: dir, V3: map[string]string{}}
	names := namesOf(c.Scheme())
	info := &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: "1.37"}}

	for path, doc := range docs {
		s, err := builder3.BuildOpenAPISpecFromRoutes([]common.RouteContainer{doc}, &common.OpenAPIV3Config{
			Info:                           info,
			CommonResponses:                map[int]*spec3.Response{401: {ResponseProps: spec3.ResponseProps{Description: "Unauthorized"}}},
			GetDefinitions:                 definitions.GetOpenAPIDefinitions,
			GetDefinitionName:              names.within(path).get,
			GetOperationIDAndTagsFromRoute: idAndTags,
			SecuritySchemes: spec3.SecuritySchemes{"BearerToken": {SecuritySchemeProps: spec3.SecuritySchemeProps{
				Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication",
			}}},
		})
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := out.document(path, s); err != nil {
			return err
		}
	}
	if err := out.version2(docs, names, info); err != nil {
		return err
	}
	return out.finish()
}

func idAndTags(r common.Route) (string, []string, error) {
	rt := r.(*route)
	return rt.id, []string{rt.tag}, nil
}

// documents makes the routes of each document, by the document's name in the index: "api/v1", "apis/apps/v1", "version".
func documents(c *api.Catalogue) map[string]*container {
	docs := map[string]*container{}
	simple := func(name, id, about, tag string, model any, produces []string) {
		consumes := produces
		if tag == "openid" || tag == "WellKnown" {
			consumes = nil
		}
		docs[name] = &container{root: "/" + name, routes: []common.Route{&route{
			method: "GET", path: "/" + name + "/", id: id, about: about, tag: tag, consumes: consumes, produces: produces,
			responses: answers(model, 200),
		}}}
	}
	json := []string{"application/json"}
	simple("api", "getCoreAPIVersions", "get available API versions", "core", &metav1.APIVersions{}, produces)
	simple("apis", "getAPIVersions", "get available API versions", "apis", &metav1.APIGroupList{}, produces)
	simple("version", "getCodeVersion", "get the version information for this server", "version", &version.Info{}, json)
	simple("openid/v1/jwks", "getServiceAccountIssuerOpenIDKeyset", "get the public keys that verify service account tokens", "openid", "",
		[]string{"application/jwk-set+json"})
	simple(".well-known/openid-configuration", "getServiceAccountIssuerOpenIDConfiguration",
		"get the OpenID configuration of the issuer of service account tokens", "WellKnown", "", json)

	for _, g := range c.Groups() {
		if g.Name != "" {
			simple("apis/"+g.Name, "get"+identifier(g.Name)+"APIGroup", "get information of a group", lowerFirst(identifier(g.Name)), &metav1.APIGroup{}, produces)
		}
		for _, v := range g.Versions {
			gv := schema.GroupVersion{Group: g.Name, Version: v.Version}
			root := rootOf(gv)
			doc := &container{root: root, routes: []common.Route{&route{
				method: "GET", path: root + "/", id: "get" + identifier(gv.Group) + title(gv.Version) + "APIResources", about: "get available resources",
				tag: tagOf(gv), consumes: produces, produces: produces, responses: answers(&metav1.APIResourceList{}, 200),
			}}}
			for _, k := range v.Kinds {
				i := slices.IndexFunc(k.Versions, func(v api.Version) bool { return k.GroupVersion(&v) == gv })
				w := writer{c: doc, scheme: c.Scheme(), kind: k, version: &k.Versions[i], gv: gv}
				w.write()
			}
			docs[strings.TrimPrefix(root, "/")] = doc
		}
	}
	return docs
}

// names knows which kinds a definition is the schema of.
type names map[string][]any

func namesOf(s *runtime.Scheme) names {
	n := names{}
	gvks := map[string][]schema.GroupVersionKind{}
	for gvk, t := range s.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal {
			continue
		}
		if m, ok := reflect.New(t).Interface().(interface{ OpenAPIModelName() string }); ok {
			gvks[m.OpenAPIModelName()] = append(gvks[m.OpenAPIModelName()], gvk)
		}
	}
	for name, list := range gvks {
		slices.SortFunc(list, func(a, b schema.GroupVersionKind) int { return strings.Compare(a.String(), b.String()) })
		for _, g := range list {
			n[name] = append(n[name], gvkExtension(g))
		}
	}
	return n
}

// within narrows the kinds that every group has to those of one document's group version, and the core group's: a document must not
// change because another group does.
func (n names) within(path string) names {
	const metaPackage = "io.k8s.apimachinery.pkg.apis.meta.v1."
	group, version, _ := strings.Cut(strings.TrimPrefix(path, "apis/"), "/")
	out := maps.Clone(n)
	for _, name := range []string{metaPackage + "DeleteOptions", metaPackage + "WatchEvent"} {
		out[name] = slices.DeleteFunc(slices.Clone(n[name]), func(k any) bool {
			gvk, ok := k.(map[string]any)
			core := ok && gvk["group"] == "" && gvk["version"] == "v1"
			return !core && (!ok || gvk["group"] != group || gvk["version"] != version)
		})
	}
	return out
}

func (n names) get(name string) (string, spec.Extensions) {
	if kinds, ok := n[name]; ok {
		return name, spec.Extensions{"x-kubernetes-group-version-kind": kinds}
	}
	return name, nil
}

// output collects the files.
type output struct {
	dir   string
	total int

	V2 string            `json:"v2"` // hash of the JSON
	V3 map[string]string `json:"v3"` // document → hash of its JSON
}

func (o *output) document(path string, s *spec3.OpenAPI) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	o.V3[path] = hash(data)
	return o.write(filepath.Join("v3", strings.ReplaceAll(path, "/", "_")+".json.gz"), data)
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return fmt.Sprintf("%X", sum[:])
}

// version2 writes the one document of OpenAPI v2, as JSON and as protobuf.
func (o *output) version2(docs map[string]*container, n names, info *spec.Info) error {
	var all []common.RouteContainer
	for _, d := range docs {
		all = append(all, d)
	}
	s, err := builder.BuildOpenAPISpecFromRoutes(all, &common.Config{
		ProtocolList:                   []string{"https"},
		Info:                           info,
		CommonResponses:                map[int]spec.Response{401: {ResponseProps: spec.ResponseProps{Description: "Unauthorized"}}},
		GetDefinitions:                 definitions.GetOpenAPIDefinitions,
		GetDefinitionName:              n.get,
		GetOperationIDAndTagsFromRoute: idAndTags,
		SecurityDefinitions: &spec.SecurityDefinitions{"BearerToken": &spec.SecurityScheme{SecuritySchemeProps: spec.SecuritySchemeProps{
			Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication",
		}}},
		DefaultSecurity: []map[string][]string{{"BearerToken": {}}},
	})
	if err != nil {
		return fmt.Errorf("v2: %w", err)
	}
	for name, d := range s.Definitions {
		withoutDefaults(&d)
		s.Definitions[name] = d
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	o.V2 = hash(data)
	if err := o.write("v2.json.gz", data); err != nil {
		return err
	}
	parsed, err := openapiv2.ParseDocument(data)
	if err != nil {
		return fmt.Errorf("v2 as protobuf: %w", err)
	}
	pb, err := proto.Marshal(parsed)
	if err != nil {
		return fmt.Errorf("v2 as protobuf: %w", err)
	}
	return o.write("v2.pb.gz", pb)
}

// withoutDefaults takes out what clients of v2 do not understand.
func withoutDefaults(s *spec.Schema) {
	if s == nil {
		return
	}
	s.Default = nil
	for name, p := range s.Properties {
		withoutDefaults(&p)
		s.Properties[name] = p
	}
	if s.Items != nil {
		withoutDefaults(s.Items.Schema)
	}
	if s.AdditionalProperties != nil {
		withoutDefaults(s.AdditionalProperties.Schema)
	}
}

func (o *output) write(name string, data []byte) error {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(data); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	o.total += b.Len()
	path := filepath.Join(o.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func (o *output) finish() error {
	data, err := json.MarshalIndent(o, "", " ")
	if err != nil {
		return err
	}
	fmt.Printf("openapi: %d documents of v3, %d bytes compressed in all\n", len(o.V3), o.total)
	return os.WriteFile(filepath.Join(o.dir, "index.json"), append(data, '\n'), 0o644)
}
