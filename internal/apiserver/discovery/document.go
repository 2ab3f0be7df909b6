package discovery

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// part is what one group adds to the documents: made once, kept as long as the group does not change.
type part struct {
	group     Group
	sources   []Source
	revisions []uint64

	entry  apidiscoveryv2.APIGroupDiscovery
	legacy *metav1.APIGroup // nil: nothing to show there
	// entryJSON and legacyJSON are their encodings, to be put together.
	entryJSON, legacyJSON []byte
	documents             map[string]*document // by path
}

// part describes a group that the catalogue and some sources have.
func (h *Handler) part(name string, sources []Source, revisions []uint64) (*part, error) {
	g := h.builtIn[name]
	g.Name, g.Versions = name, slices.Clone(g.Versions)
	for _, s := range sources {
		more := s.Group(name)
		if g.Priority == 0 {
			g.Priority = more.Priority
		}
		for _, v := range more.Versions {
			if !slices.ContainsFunc(g.Versions, func(have Version) bool { return have.Version == v.Version && !have.quiet }) {
				g.Versions = append(g.Versions, v)
			}
		}
	}
	p := &part{group: g, sources: sources, revisions: revisions, entry: aggregated(g), documents: map[string]*document{}}
	var err error
	if p.entryJSON, err = json.Marshal(p.entry); err != nil {
		return nil, err
	}
	if l, ok := legacyGroup(g); ok && name != "" {
		if p.legacyJSON, err = json.Marshal(l); err != nil {
			return nil, err
		}
		p.legacy = &l
		single := l
		single.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
		p.documents["/apis/"+name] = newDocument(func() (runtime.Object, error) { return &single, nil }, nil)
	}
	for _, v := range g.Versions {
		if v.quiet {
			continue
		}
		gv := schema.GroupVersion{Group: name, Version: v.Version}
		r := &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList"}, GroupVersion: gv.String(), APIResources: v.Resources}
		if r.APIResources == nil {
			r.APIResources = []metav1.APIResource{}
		}
		path := "/api/" + v.Version
		if name != "" {
			r.APIVersion, path = "v1", "/apis/"+gv.String()
		}
		p.documents[path] = newDocument(func() (runtime.Object, error) { return r, nil }, nil)
	}
	return p, nil
}

// find returns the document of a path below /api/ and /apis/, or nil.
func (d *documents) find(path string) *document {
	rest, ok := strings.CutPrefix(path, "/apis/")
	group, _, _ := strings.Cut(rest, "/")
	if !ok {
		group = ""
	}
	if p := d.parts[group]; p != nil {
		return p.documents[path]
	}
	return nil
}

// join makes the documents that are about all groups.
func (d *documents) join(order []*part, address string) {
	// The core group's documents have always been without an apiVersion.
	core := &metav1.APIVersions{
		TypeMeta:                   metav1.TypeMeta{Kind: "APIVersions"},
		ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: address}},
	}
	var one, others []*part
	for _, p := range order {
		if p.group.Name != "" {
			others = append(others, p)
			continue
		}
		one = append(one, p)
		for _, v := range p.group.Versions {
			if !v.quiet {
				core.Versions = append(core.Versions, v.Version)
			}
		}
	}
	d.core = newDocument(func() (runtime.Object, error) { return core, nil }, nil)
	d.groups = newDocument(func() (runtime.Object, error) {
		list := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{}}
		for _, p := range others {
			if p.legacy != nil {
				list.Groups = append(list.Groups, *p.legacy)
			}
		}
		return list, nil
	}, together(`{"kind":"APIGroupList","apiVersion":"v1","groups":[`, others, func(p *part) []byte { return p.legacyJSON }))
	d.coreAggregated, d.aggregated = aggregatedDocument(one), aggregatedDocument(others)
}

func aggregatedDocument(parts []*part) *document {
	apiVersion := apidiscoveryv2.SchemeGroupVersion.String()
	return newDocument(func() (runtime.Object, error) {
		list := &apidiscoveryv2.APIGroupDiscoveryList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: apiVersion}}
		for _, p := range parts {
			list.Items = append(list.Items, p.entry)
		}
		return list, nil
	}, together(`{"kind":"APIGroupDiscoveryList","apiVersion":"`+apiVersion+`","metadata":{},"items":[`, parts, func(p *part) []byte { return p.entryJSON }))
}

// together returns a function that joins the parts' JSON.
func together(head string, parts []*part, of func(*part) []byte) func() ([]byte, error) {
	return func() ([]byte, error) {
		b := []byte(head)
		for _, p := range parts {
			if j := of(p); j != nil {
				if b[len(b)-1] != '[' {
					b = append(b, ',')
				}
				b = append(b, j...)
			}
		}
		return append(b, "]}"...), nil
	}
}

// document is one object with its encodings, each made when it is first asked for. All share the ETag of the JSON form;
// Vary: Accept keeps them apart.
type document struct {
	object func() (runtime.Object, error)
	json   func() ([]byte, error)

	mu    sync.Mutex // guards etag and forms
	etag  string
	forms map[string][]byte
}

// newDocument makes a document of an object; encode, if set, gives its JSON without making it.
func newDocument(object func() (runtime.Object, error), encode func() ([]byte, error)) *document {
	if encode == nil {
		encode = func() ([]byte, error) {
			obj, err := object()
			if err != nil {
				return nil, err
			}
			return json.Marshal(obj)
		}
	}
	return &document{object: object, json: encode, forms: map[string][]byte{}}
}

// encoded returns the document in a form, and its ETag.
func (d *document) encoded(s runtime.SerializerInfo) (body []byte, etag string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.etag == "" {
		data, err := d.json()
		if err != nil {
			return nil, "", err
		}
		sum := sha256.Sum256(data)
		d.etag = `"` + strings.ToUpper(hex.EncodeToString(sum[:])) + `"`
		d.forms[runtime.ContentTypeJSON] = append(data, '\n')
	}
	if b, ok := d.forms[s.MediaType]; ok {
		return b, d.etag, nil
	}
	obj, err := d.object()
	if err != nil {
		return nil, "", err
	}
	var b bytes.Buffer
	if err := s.Serializer.Encode(obj, &b); err != nil {
		return nil, "", fmt.Errorf("encoding as %s: %w", s.MediaType, err)
	}
	d.forms[s.MediaType] = b.Bytes()
	return b.Bytes(), d.etag, nil
}
