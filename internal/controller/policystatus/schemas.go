package policystatus

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// schemas reads what the API says of its kinds. What was read is kept as long as one policy is checked.
type schemas struct {
	api       discovery.DiscoveryInterface
	documents map[schema.GroupVersion]map[string]*spec.Schema
	resources map[schema.GroupVersion]map[string]string // kind by resource
}

func newSchemas(api discovery.DiscoveryInterface) *schemas {
	return &schemas{api: api, documents: map[schema.GroupVersion]map[string]*spec.Schema{}, resources: map[schema.GroupVersion]map[string]string{}}
}

// kind finds the kind of a resource, or returns errUnknown.
func (s *schemas) kind(_ context.Context, gvr schema.GroupVersionResource) (schema.GroupVersionKind, error) {
	gv := gvr.GroupVersion()
	kinds, ok := s.resources[gv]
	if !ok {
		kinds = map[string]string{}
		list, err := s.api.ServerResourcesForGroupVersion(gv.String())
		if err != nil && !apierrors.IsNotFound(err) {
			return schema.GroupVersionKind{}, fmt.Errorf("discover %s: %w", gv, err)
		}
		if list != nil {
			for i := range list.APIResources {
				kinds[list.APIResources[i].Name] = list.APIResources[i].Kind
			}
		}
		s.resources[gv] = kinds
	}
	kind := kinds[gvr.Resource]
	if kind == "" {
		return schema.GroupVersionKind{}, errUnknown
	}
	return gv.WithKind(kind), nil
}

const refPrefix = "#/components/schemas/"

// schema returns the schema of a kind without references, or errUnknown.
func (s *schemas) schema(ctx context.Context, gvk schema.GroupVersionKind) (*spec.Schema, error) {
	all, err := s.document(ctx, gvk.GroupVersion())
	if err != nil {
		return nil, err
	}
	for name, one := range all {
		var kinds []schema.GroupVersionKind
		if err := one.Extensions.GetObject("x-kubernetes-group-version-kind", &kinds); err != nil {
			return nil, fmt.Errorf("schema %s: %w", name, err)
		}
		for _, k := range kinds {
			if k == gvk {
				return resolve(all, one, map[string]bool{name: true})
			}
		}
	}
	return nil, errUnknown
}

// document reads the schemas of a group version.
func (s *schemas) document(ctx context.Context, gv schema.GroupVersion) (map[string]*spec.Schema, error) {
	if all, ok := s.documents[gv]; ok {
		return all, nil
	}
	path := "/openapi/v3/apis/" + gv.String()
	if gv.Group == "" {
		path = "/openapi/v3/api/" + gv.Version
	}
	data, err := s.api.RESTClient().Get().AbsPath(path).Do(ctx).Raw()
	if apierrors.IsNotFound(err) {
		s.documents[gv] = nil
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	var doc struct {
		Components struct {
			Schemas map[string]*spec.Schema `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	s.documents[gv] = doc.Components.Schemas
	return doc.Components.Schemas, nil
}

// resolve returns s with what it refers to in its place; what contains itself ends as any object. Above are the names around it.
func resolve(all map[string]*spec.Schema, s *spec.Schema, above map[string]bool) (*spec.Schema, error) {
	if ref, ok := refOf(s); ok {
		name := strings.TrimPrefix(ref, refPrefix)
		if above[name] {
			return &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}, nil
		}
		to := all[name]
		if to == nil {
			return nil, fmt.Errorf("schema %s: %w", name, errUnknown)
		}
		above[name] = true
		defer delete(above, name)
		s = to
	}
	out := *s
	if len(s.Properties) > 0 {
		out.Properties = make(map[string]spec.Schema, len(s.Properties))
		for name := range s.Properties {
			p := s.Properties[name]
			r, err := resolve(all, &p, above)
			if err != nil {
				return nil, err
			}
			out.Properties[name] = *r
		}
	}
	if a := s.AdditionalProperties; a != nil && a.Schema != nil {
		r, err := resolve(all, a.Schema, above)
		if err != nil {
			return nil, err
		}
		out.AdditionalProperties = &spec.SchemaOrBool{Allows: a.Allows, Schema: r}
	}
	if i := s.Items; i != nil && i.Schema != nil {
		r, err := resolve(all, i.Schema, above)
		if err != nil {
			return nil, err
		}
		out.Items = &spec.SchemaOrArray{Schema: r}
	}
	return &out, nil
}

// refOf finds a reference; one with a description beside it is in an allOf.
func refOf(s *spec.Schema) (string, bool) {
	if s.Ref.GetURL() != nil {
		return s.Ref.String(), true
	}
	for i := range s.AllOf {
		if ref, ok := refOf(&s.AllOf[i]); ok {
			return ref, true
		}
	}
	return "", false
}
