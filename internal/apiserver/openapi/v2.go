package openapi

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
)

// Definer is a Source whose schemas are shown in the v2 document too, among those of the built-in kinds. Its paths are not.
type Definer interface {
	Source
	// Definitions returns the members of the object "definitions" as JSON, with commas between them and without braces.
	Definitions() ([]byte, error)
}

// mergedV2 is the v2 document with the schemas of sources, at one revision of each.
type mergedV2 struct {
	revisions   []uint64
	etag        string
	definitions []byte

	mu     sync.Mutex
	byFile map[string][]byte // guarded by mu; compressed
}

// v2 returns the merged document; nil if there is nothing to merge.
func (h *Handler) v2() (*mergedV2, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var revisions []uint64
	for _, s := range h.sources {
		revisions = append(revisions, s.Revision())
	}
	if h.merged != nil && slices.Equal(h.merged.revisions, revisions) {
		return h.merged, nil
	}
	next := &mergedV2{revisions: revisions, byFile: map[string][]byte{}}
	for _, s := range h.sources {
		d, ok := s.(Definer)
		if !ok {
			continue
		}
		more, err := d.Definitions()
		if err != nil {
			return nil, err
		}
		if len(more) > 0 && len(next.definitions) > 0 {
			next.definitions = append(next.definitions, ',')
		}
		next.definitions = append(next.definitions, more...)
	}
	next.etag = quote(h.v2Hash)
	if len(next.definitions) > 0 {
		next.etag = quote(hashOf(append([]byte(h.v2Hash), next.definitions...)))
	}
	h.merged = next
	return next, nil
}

// document returns the merged document in the form of an embedded file, compressed; nil if it is that file.
func (m *mergedV2) document(file string) ([]byte, error) {
	if len(m.definitions) == 0 {
		return nil, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := m.byFile[file]; ok {
		return b, nil
	}
	base, err := unpack(file)
	if err != nil {
		return nil, err
	}
	if file == v2JSON {
		// The object's own definitions come before anything that has a field of this name.
		const head = `"definitions":{`
		at := bytes.Index(base, []byte(head))
		if at < 0 {
			return nil, fmt.Errorf("the embedded OpenAPI v2 document has no definitions")
		}
		at += len(head)
		base = slices.Concat(base[:at], m.definitions, []byte(","), base[at:])
	} else {
		doc, err := openapiv2.ParseDocument(slices.Concat([]byte(`{"swagger":"2.0","info":{"title":"","version":""},"paths":{},"definitions":{`), m.definitions, []byte("}}")))
		if err != nil {
			return nil, fmt.Errorf("reading schemas as OpenAPI v2: %w", err)
		}
		// What follows in a protobuf message is merged with what is there: lists grow, and nothing else is in this one.
		more, err := proto.Marshal(&openapiv2.Document{Definitions: doc.Definitions})
		if err != nil {
			return nil, err
		}
		base = append(base, more...)
	}
	b, err := compress(base)
	if err == nil {
		m.byFile[file] = b
	}
	return b, err
}

func unpack(file string) ([]byte, error) {
	f, err := data.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

// The embedded forms of the v2 document.
const (
	v2JSON  = "data/v2.json.gz"
	v2Proto = "data/v2.pb.gz"
)

// sendV2 answers with the v2 document in the form of an embedded file.
func (h *Handler) sendV2(w http.ResponseWriter, r *http.Request, file, contentType string) {
	m, err := h.v2()
	if err == nil {
		if notModified(w, r, m.etag) {
			return
		}
		var doc []byte
		if doc, err = m.document(file); err == nil {
			send(w, r, file, doc, contentType)
			return
		}
	}
	http.Error(w, err.Error(), http.StatusInternalServerError)
}
