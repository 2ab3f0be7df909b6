package discovery

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/munnerz/goautoneg"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/api"
)

// Handler answers discovery requests. It is safe for concurrent use.
type Handler struct {
	serializers []runtime.SerializerInfo
	address     string
	builtIn     []Group
	catalogue   *api.Catalogue

	mu        sync.Mutex // serializes SetExtra
	documents atomic.Pointer[documents]
}

// documents is one consistent set of answers.
type documents struct {
	core, groups               *document            // /api and /apis
	coreAggregated, aggregated *document            // the same, aggregated
	byPath                     map[string]*document // /api/v1, /apis/GROUP, /apis/GROUP/VERSION
}

// New makes the documents of the built-in kinds. address is the host and port that /api tells clients outside to use.
func New(c *api.Catalogue, address string) (*Handler, error) {
	h := &Handler{serializers: c.Serializers(), address: address, builtIn: builtIn(c), catalogue: c}
	if err := h.SetExtra(nil); err != nil {
		return nil, err
	}
	return h, nil
}

// SetExtra replaces the groups that are served besides the built-in ones. A group that has the name of a built-in one adds
// its versions to it. The groups belong to the handler from then on.
func (h *Handler) SetExtra(extra []Group) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	groups := make([]Group, 0, len(h.builtIn)+len(extra))
	for _, g := range h.builtIn {
		g.Versions = slices.Clone(g.Versions)
		groups = append(groups, g)
	}
	for _, g := range extra {
		n := slices.IndexFunc(groups, func(o Group) bool { return o.Name == g.Name })
		if n < 0 {
			groups = append(groups, g)
			continue
		}
		groups[n].Versions = append(groups[n].Versions, g.Versions...)
	}
	groups = withHidden(groups, h.catalogue)
	slices.SortStableFunc(groups, func(a, b Group) int {
		if a.Priority != b.Priority {
			return int(b.Priority) - int(a.Priority)
		}
		return strings.Compare(a.Name, b.Name)
	})
	d, err := h.prepare(groups)
	if err != nil {
		return fmt.Errorf("preparing discovery documents: %w", err)
	}
	h.documents.Store(d)
	return nil
}

func (h *Handler) prepare(groups []Group) (*documents, error) {
	d := &documents{byPath: map[string]*document{}}
	// The core group's documents have always been without an apiVersion.
	core := &metav1.APIVersions{
		TypeMeta: metav1.TypeMeta{Kind: "APIVersions"},
		ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{
			{ClientCIDR: "0.0.0.0/0", ServerAddress: h.address},
		},
	}
	list := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{}}
	aggregatedMeta := metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: apidiscoveryv2.SchemeGroupVersion.String()}
	coreAggregated := &apidiscoveryv2.APIGroupDiscoveryList{TypeMeta: aggregatedMeta}
	groupsAggregated := &apidiscoveryv2.APIGroupDiscoveryList{TypeMeta: aggregatedMeta}

	objects := map[string]runtime.Object{}
	for _, g := range groups {
		if g.Name == "" {
			coreAggregated.Items = append(coreAggregated.Items, aggregated(g))
		} else {
			groupsAggregated.Items = append(groupsAggregated.Items, aggregated(g))
			if l, ok := legacyGroup(g); ok {
				list.Groups = append(list.Groups, l)
				l.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
				objects["/apis/"+g.Name] = &l
			}
		}
		for _, v := range g.Versions {
			if v.quiet {
				continue
			}
			gv := schema.GroupVersion{Group: g.Name, Version: v.Version}
			r := &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList"}, GroupVersion: gv.String(), APIResources: v.Resources}
			if g.Name == "" {
				core.Versions = append(core.Versions, v.Version)
				objects["/api/"+v.Version] = r
			} else {
				r.APIVersion = "v1"
				objects["/apis/"+gv.String()] = r
			}
		}
	}
	for _, p := range []struct {
		to  **document
		obj runtime.Object
	}{{&d.core, core}, {&d.groups, list}, {&d.coreAggregated, coreAggregated}, {&d.aggregated, groupsAggregated}} {
		doc, err := newDocument(p.obj)
		if err != nil {
			return nil, err
		}
		*p.to = doc
	}
	for path, obj := range objects {
		doc, err := newDocument(obj)
		if err != nil {
			return nil, err
		}
		d.byPath[path] = doc
	}
	return d, nil
}

// Serve answers a GET of a discovery document. It returns false, having done nothing, when the path is none.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request) bool {
	docs := h.documents.Load()
	path := strings.TrimSuffix(r.URL.Path, "/")
	var plain, aggregated *document
	switch path {
	case "/api":
		plain, aggregated = docs.core, docs.coreAggregated
	case "/apis":
		plain, aggregated = docs.groups, docs.aggregated
	default:
		var ok bool
		if plain, ok = docs.byPath[path]; !ok {
			return false
		}
	}
	info, useAggregated, ok := h.negotiate(r.Header.Get("Accept"), aggregated != nil)
	if !ok {
		h.notAcceptable(w)
		return true
	}
	doc, contentType := plain, info.MediaType
	if useAggregated {
		doc, contentType = aggregated, info.MediaType+aggregatedParameters
	}
	body, err := doc.encoded(info)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return true
	}
	w.Header().Set("Vary", "Accept")
	w.Header().Set("ETag", doc.etag)
	if matches(r.Header.Get("If-None-Match"), doc.etag) {
		w.WriteHeader(http.StatusNotModified)
		return true
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that went away is nobody's error
	}
	return true
}

// aggregatedParameters is how a client asks for the aggregated document, and how the answer says that it is one.
const aggregatedParameters = ";g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// negotiate chooses a serializer by an Accept header (RFC 9110, section 12.5.1).
func (h *Handler) negotiate(accept string, canAggregate bool) (info runtime.SerializerInfo, aggregated, ok bool) {
	if strings.TrimSpace(accept) == "" {
		return h.serializers[0], false, true
	}
	for _, a := range goautoneg.ParseAccept(accept) {
		as := a.Params["as"]
		if as != "" {
			if !canAggregate || as != "APIGroupDiscoveryList" || a.Params["g"] != apidiscoveryv2.GroupName || a.Params["v"] != "v2" {
				continue
			}
		}
		for _, s := range h.serializers {
			if (a.Type == "*" && a.SubType == "*") || (a.Type == s.MediaTypeType && (a.SubType == "*" || a.SubType == s.MediaTypeSubType)) {
				return s, as != "", true
			}
		}
	}
	return runtime.SerializerInfo{}, false, false
}

func (h *Handler) notAcceptable(w http.ResponseWriter) {
	types := make([]string, len(h.serializers))
	for i, s := range h.serializers {
		types[i] = s.MediaType
	}
	status := metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure,
		Message:  "only the following media types are accepted: " + strings.Join(types, ", "),
		Reason:   metav1.StatusReasonNotAcceptable,
		Code:     http.StatusNotAcceptable,
	}
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	w.WriteHeader(http.StatusNotAcceptable)
	_ = json.NewEncoder(w).Encode(status)
}

// matches says whether an If-None-Match header (RFC 9110, section 13.1.2) names the tag.
func matches(header, etag string) bool {
	for t := range strings.SplitSeq(header, ",") {
		t = strings.TrimPrefix(strings.TrimSpace(t), "W/")
		if t == etag || t == "*" {
			return true
		}
	}
	return false
}

// document is one object with its encodings, each made when it is first asked for. All share the ETag of the JSON form;
// Vary: Accept keeps them apart.
type document struct {
	obj  runtime.Object
	etag string

	mu    sync.Mutex // guards forms
	forms map[string][]byte
}

func newDocument(obj runtime.Object) (*document, error) {
	data, err := json.Marshal(obj)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	return &document{
		obj:   obj,
		etag:  `"` + strings.ToUpper(hex.EncodeToString(sum[:])) + `"`,
		forms: map[string][]byte{runtime.ContentTypeJSON: append(data, '\n')},
	}, nil
}

func (d *document) encoded(s runtime.SerializerInfo) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b, ok := d.forms[s.MediaType]; ok {
		return b, nil
	}
	var b bytes.Buffer
	if err := s.Serializer.Encode(d.obj, &b); err != nil {
		return nil, fmt.Errorf("encoding as %s: %w", s.MediaType, err)
	}
	d.forms[s.MediaType] = b.Bytes()
	return b.Bytes(), nil
}
