package custom

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/celox/celox/internal/apiserver/openapi"
)

// OpenAPI describes custom resources to clients: one v3 document a group version. It is an openapi.Source. A document is made when
// somebody wants to read it; its name changes its hash with every change of a definition, without it being made.
type OpenAPI struct {
	registry *Registry
	template func() (*template, error) // of v3
	v2       func() (*template, error)
}

// NewOpenAPI returns the documents of what r serves.
func NewOpenAPI(r *Registry) *OpenAPI {
	return &OpenAPI{
		registry: r,
		template: sync.OnceValues(func() (*template, error) {
			doc, err := openapi.Raw(modelDocument)
			if err != nil {
				return nil, err
			}
			return newTemplate(doc, false)
		}),
		v2: sync.OnceValues(func() (*template, error) {
			doc, err := openapi.RawV2()
			if err != nil {
				return nil, err
			}
			return newTemplate(doc, true)
		}),
	}
}

// Revision implements openapi.Source.
func (o *OpenAPI) Revision() uint64 { return o.registry.Revision() }

// Documents implements openapi.Source.
func (o *OpenAPI) Documents() map[string]uint64 {
	out := map[string]uint64{}
	for _, group := range o.registry.Groups() {
		all, revision := o.registry.Definitions(group)
		for _, s := range all {
			for _, v := range s.Versions() {
				out["apis/"+group+"/"+v.spec.Name] = revision
			}
		}
	}
	return out
}

// Hash names the contents of a document: it is another one when a definition of the group has changed, and the same after a restart.
func (o *OpenAPI) Hash(name string) string {
	group, version, ok := splitDocument(name)
	if !ok {
		return ""
	}
	var b strings.Builder
	all, _ := o.registry.Definitions(group)
	for _, s := range all {
		if _, ok := s.Definition.Served(version); ok {
			writeState(&b, s.Newest())
		}
	}
	return b.String()
}

// writeState names what a definition says now.
func writeState(b *strings.Builder, crd *apiextensionsv1.CustomResourceDefinition) {
	b.WriteString(string(crd.UID))
	b.WriteByte(':')
	b.WriteString(strconv.FormatInt(crd.Generation, 10))
	b.WriteByte(':')
	b.WriteString(strconv.FormatBool(isTrue(crd, apiextensionsv1.Established)))
	b.WriteByte(';')
}

// HashV2 implements openapi.Merger.
func (o *OpenAPI) HashV2() string {
	var b strings.Builder
	for _, group := range o.registry.Groups() {
		all, _ := o.registry.Definitions(group)
		for _, s := range all {
			writeState(&b, s.Newest())
		}
	}
	return b.String()
}

// V2 implements openapi.Merger.
func (o *OpenAPI) V2() ([]openapi.Addition, error) {
	var paths, definitions bytes.Buffer
	for _, group := range o.registry.Groups() {
		all, _ := o.registry.Definitions(group)
		for _, s := range all {
			if !isTrue(s.Newest(), apiextensionsv1.Established) {
				continue
			}
			t, err := o.v2()
			if err != nil {
				return nil, err
			}
			for _, v := range s.Versions() {
				if paths.Len() > 0 {
					paths.WriteByte(',')
				}
				t.writePaths(&paths, v)
				if err := v.writeSchemas(&definitions, true); err != nil {
					return nil, fmt.Errorf("describing %s: %w", v.gvk, err)
				}
			}
		}
	}
	if paths.Len() == 0 {
		return nil, nil
	}
	return []openapi.Addition{{Paths: paths.Bytes(), Definitions: bytes.TrimPrefix(definitions.Bytes(), []byte(","))}}, nil
}

func splitDocument(name string) (group, version string, ok bool) {
	rest, ok := strings.CutPrefix(name, "apis/")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, "/")
}

// Document implements openapi.Source.
func (o *OpenAPI) Document(name string) ([]byte, error) {
	group, version, ok := splitDocument(name)
	if !ok {
		return nil, nil
	}
	t, err := o.template()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString(`{"openapi":"3.0.0","info":{"title":"Kubernetes CRD Swagger","version":"v0.1.0"},"paths":{`)
	var served []*Version
	all, _ := o.registry.Definitions(group)
	for _, s := range all {
		if v, ok := s.Definition.Served(version); ok && isTrue(s.Newest(), apiextensionsv1.Established) {
			served = append(served, v)
		}
	}
	if len(served) == 0 {
		return nil, nil
	}
	for i, v := range served {
		if i > 0 {
			b.WriteByte(',')
		}
		t.writePaths(&b, v)
	}
	b.WriteString(`},"components":{"schemas":{`)
	if slices.ContainsFunc(served, func(v *Version) bool { return v.Scale() != nil }) {
		b.Write(t.scaled)
	} else {
		b.Write(t.schemas)
	}
	for _, v := range served {
		if err := v.writeSchemas(&b, false); err != nil {
			return nil, fmt.Errorf("describing %s: %w", v.gvk, err)
		}
	}
	b.WriteString(`},"securitySchemes":{"BearerToken":{"type":"apiKey","description":"Bearer Token authentication","name":"authorization","in":"header"}}}}`)
	return b.Bytes(), nil
}
