package discovery

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/munnerz/goautoneg"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/celox/celox/internal/api"
)

// Source has groups that come and go while the server runs: those of custom resources, and of other servers. Its methods are called
// by requests from many goroutines and answer from memory.
type Source interface {
	// Revision changes whenever any group does.
	Revision() uint64
	// Groups returns the names of the groups.
	Groups() []string
	// GroupRevision changes when the group does; 0 is a group that is not there.
	GroupRevision(name string) uint64
	// Group describes a group. It is asked for once a revision of the group, and belongs to the caller.
	Group(name string) Group
}

// Handler answers discovery requests. It is safe for concurrent use.
type Handler struct {
	serializers []runtime.SerializerInfo
	address     string
	builtIn     map[string]Group

	mu        sync.Mutex // guards sources and the making of documents
	sources   []Source
	documents atomic.Pointer[documents]
}

// documents is one consistent set of answers.
type documents struct {
	revisions                  []uint64  // of the sources
	core, groups               *document // /api and /apis
	coreAggregated, aggregated *document // the same, aggregated
	parts                      map[string]*part
	sources                    []Source
}

// New makes the documents of the built-in kinds. address is the host and port that /api tells clients outside to use.
func New(c *api.Catalogue, address string) (*Handler, error) {
	h := &Handler{serializers: c.Serializers(), address: address, builtIn: map[string]Group{}}
	for _, g := range withHidden(builtIn(c), c) {
		h.builtIn[g.Name] = g
	}
	_, err := h.current()
	return h, err
}

// AddSource lets a source's groups be served besides the built-in ones, after those of earlier sources. A group that has the name of
// another one adds its versions to it.
func (h *Handler) AddSource(s Source) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sources = append(h.sources, s)
	h.documents.Store(nil)
}

// current returns the answers that are true now. Nothing is made anew unless a source has changed, and then only what did.
func (h *Handler) current() (*documents, error) {
	if d := h.documents.Load(); d != nil && h.fresh(d) {
		return d, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.documents.Load()
	if old != nil && h.fresh(old) {
		return old, nil
	}
	d, err := h.prepare(old)
	if err != nil {
		return nil, fmt.Errorf("preparing discovery documents: %w", err)
	}
	h.documents.Store(d)
	return d, nil
}

// fresh says whether no source has changed since d was made. AddSource, which changes their number, drops what was made.
func (h *Handler) fresh(d *documents) bool {
	for i, r := range d.revisions {
		if d.sources[i].Revision() != r {
			return false
		}
	}
	return true
}

// prepare makes the answers, with the parts of old ones that did not change.
func (h *Handler) prepare(old *documents) (*documents, error) {
	d := &documents{sources: h.sources, parts: map[string]*part{}}
	from := map[string][]Source{}
	for name := range h.builtIn {
		from[name] = nil
	}
	for _, s := range h.sources {
		d.revisions = append(d.revisions, s.Revision()) // before the look: what changes meanwhile is seen the next time
		for _, name := range s.Groups() {
			from[name] = append(from[name], s)
		}
	}
	for name, sources := range from {
		revisions := make([]uint64, len(sources))
		for i, s := range sources {
			revisions[i] = s.GroupRevision(name)
		}
		if old != nil {
			if p := old.parts[name]; p != nil && slices.Equal(p.revisions, revisions) && slices.Equal(p.sources, sources) {
				d.parts[name] = p
				continue
			}
		}
		p, err := h.part(name, sources, revisions)
		if err != nil {
			return nil, err
		}
		d.parts[name] = p
	}
	d.join(slices.SortedFunc(maps.Values(d.parts), func(a, b *part) int {
		if a.group.Priority != b.group.Priority {
			return int(b.group.Priority) - int(a.group.Priority)
		}
		return strings.Compare(a.group.Name, b.group.Name)
	}), h.address)
	return d, nil
}

// Serve answers a GET of a discovery document. It returns false, having done nothing, when the path is none.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request) bool {
	docs, err := h.current()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return true
	}
	path := strings.TrimSuffix(r.URL.Path, "/")
	var plain, aggregated *document
	switch path {
	case "/api":
		plain, aggregated = docs.core, docs.coreAggregated
	case "/apis":
		plain, aggregated = docs.groups, docs.aggregated
	default:
		if plain = docs.find(path); plain == nil {
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
	body, etag, err := doc.encoded(info)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return true
	}
	w.Header().Set("Vary", "Accept")
	w.Header().Set("ETag", etag)
	if matches(r.Header.Get("If-None-Match"), etag) {
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

// aggregatedParameters is how a client asks for the aggregated document, and how the answer says that it is one. Upstream has dropped
// the older v2beta1.
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
