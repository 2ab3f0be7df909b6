package openapi

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
)

// Merger is a Source that is shown in the v2 document too.
type Merger interface {
	Source
	// HashV2 changes with what V2 returns, and is the same for the same after a restart. It is cheap.
	HashV2() string
	// V2 returns what the source adds to the v2 document. It is asked for when somebody reads the document.
	V2() ([]Addition, error)
}

// Addition is a part of the v2 document: members of its objects "paths", "definitions" and "parameters" as JSON, with commas between
// them and without braces. References lead to members of this addition, or of the built-in document.
type Addition struct {
	Paths, Definitions, Parameters []byte
	// Foreign is an addition whose names mean what another server means by them: one that is taken by something else is changed. A
	// foreign addition is complete: its references do not lead out of it.
	Foreign bool
}

func (a *Addition) parts() [3]*[]byte { return [...]*[]byte{&a.Paths, &a.Definitions, &a.Parameters} }

// add puts another addition after this one.
func (a *Addition) add(b Addition) {
	to, from := a.parts(), b.parts()
	for i := range to {
		if len(*to[i]) > 0 && len(*from[i]) > 0 {
			*to[i] = append(*to[i], ',')
		}
		*to[i] = append(*to[i], *from[i]...)
	}
}

// mergedV2 is the v2 document with what sources add, at one revision of each.
type mergedV2 struct {
	revisions []uint64
	etag      string
	sources   []Merger

	mu     sync.Mutex
	byFile map[string][]byte // guarded by mu; compressed; nil is the embedded one
}

// v2 returns the merged document.
func (h *Handler) v2() *mergedV2 {
	h.mu.Lock()
	defer h.mu.Unlock()
	var revisions []uint64
	for _, s := range h.sources {
		revisions = append(revisions, s.Revision())
	}
	if h.merged != nil && slices.Equal(h.merged.revisions, revisions) {
		return h.merged
	}
	next := &mergedV2{revisions: revisions, byFile: map[string][]byte{}}
	var hashes strings.Builder
	for _, s := range h.sources {
		m, ok := s.(Merger)
		if !ok {
			continue
		}
		if hash := m.HashV2(); hash != "" {
			hashes.WriteString(hash)
			hashes.WriteByte('\n')
			next.sources = append(next.sources, m)
		}
	}
	next.etag = quote(h.v2Hash)
	if hashes.Len() > 0 {
		next.etag = quote(hashOf([]byte(h.v2Hash + "\n" + hashes.String())))
	}
	if h.merged != nil && h.merged.etag == next.etag {
		next.byFile = h.merged.takeFiles() // only something that v2 does not show has changed
	}
	h.merged = next
	return next
}

// takeFiles returns a copy of what is made.
func (m *mergedV2) takeFiles() map[string][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string][]byte, len(m.byFile))
	for k, v := range m.byFile {
		out[k] = v
	}
	return out
}

// document returns the merged document in the form of an embedded file, compressed; nil if it is that file.
func (m *mergedV2) document(file string) ([]byte, error) {
	if len(m.sources) == 0 {
		return nil, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := m.byFile[file]; ok {
		return b, nil
	}
	more, err := m.additions()
	if err != nil {
		return nil, err
	}
	if len(more.Paths) == 0 && len(more.Definitions) == 0 {
		m.byFile[file] = nil
		return nil, nil
	}
	base, err := unpack(file)
	if err != nil {
		return nil, err
	}
	if file == v2JSON {
		base, err = mergeJSON(base, more)
	} else {
		base, err = mergeProto(base, more)
	}
	if err != nil {
		return nil, err
	}
	b, err := compress(base)
	if err == nil {
		m.byFile[file] = b
	}
	return b, err
}

// additions returns what all sources add, as one, without names that mean two things.
func (m *mergedV2) additions() (all Addition, err error) {
	var names *taken
	for _, s := range m.sources {
		list, err := s.V2()
		if err != nil {
			return all, err
		}
		for _, a := range list {
			if a.Foreign {
				if names == nil {
					if names, err = namesOf(all); err != nil {
						return all, err
					}
				}
				if a, err = names.fit(a); err != nil {
					return all, err
				}
			} else if names != nil {
				if err := names.note(a); err != nil {
					return all, err
				}
			}
			all.add(a)
		}
	}
	return all, nil
}

// mergeJSON puts the additions into the document's own objects. In front of each of these nothing else has a field that looks like
// it; "parameters" comes after the definitions, some of which have a property of that name.
func mergeJSON(base []byte, more Addition) ([]byte, error) {
	for _, p := range [...]struct {
		head  string
		more  []byte
		index func(s, sep []byte) int
	}{
		{`"parameters":{`, more.Parameters, bytes.LastIndex}, {`"definitions":{`, more.Definitions, bytes.Index}, {`"paths":{`, more.Paths, bytes.Index},
	} {
		if len(p.more) == 0 {
			continue
		}
		at := p.index(base, []byte(p.head))
		if at < 0 {
			return nil, fmt.Errorf("the embedded OpenAPI v2 document has no %s", p.head)
		}
		at += len(p.head)
		base = slices.Concat(base[:at], p.more, []byte(","), base[at:])
	}
	return base, nil
}

// mergeProto appends the additions: what follows in a protobuf message is merged with what is there, and lists grow.
func mergeProto(base []byte, more Addition) ([]byte, error) {
	doc, err := openapiv2.ParseDocument(slices.Concat([]byte(`{"swagger":"2.0","info":{"title":"","version":""},"paths":{`), more.Paths,
		[]byte(`},"definitions":{`), more.Definitions, []byte(`},"parameters":{`), more.Parameters, []byte("}}")))
	if err != nil {
		return nil, fmt.Errorf("reading additions as OpenAPI v2: %w", err)
	}
	data, err := proto.Marshal(&openapiv2.Document{Paths: doc.Paths, Definitions: doc.Definitions, Parameters: doc.Parameters})
	return append(base, data...), err
}

// RawV2 returns the built-in v2 document as JSON, read afresh.
func RawV2() ([]byte, error) { return unpack(v2JSON) }

// The embedded forms of the v2 document.
const (
	v2JSON  = "data/v2.json.gz"
	v2Proto = "data/v2.pb.gz"
)

// sendV2 answers with the v2 document in the form of an embedded file.
func (h *Handler) sendV2(w http.ResponseWriter, r *http.Request, file, contentType string) {
	m := h.v2()
	if notModified(w, r, m.etag) {
		return
	}
	doc, err := m.document(file)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	send(w, r, file, doc, contentType)
}
