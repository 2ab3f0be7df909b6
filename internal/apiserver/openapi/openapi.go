package openapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/munnerz/goautoneg"
)

//go:generate go run ./gen

//go:embed all:data
var data embed.FS

// Media types of OpenAPI v2 as protobuf. Clients ask for the first, which is no valid media type, and are answered with the second.
const (
	protoAsked    = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
	protoAnswered = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	jsonType      = "application/json"
)

// Source has v3 documents that come and go while the server runs: those of custom resources, and of other servers. Its methods are
// called by requests from many goroutines.
type Source interface {
	// Revision changes whenever any document does.
	Revision() uint64
	// Documents returns the revision of each document by its name, like "apis/example.com/v1".
	Documents() map[string]uint64
	// Document returns a document as JSON. It is asked for once a revision, when somebody wants to know it.
	Document(name string) ([]byte, error)
}

// Named is a Source that can name the contents of a document without making it: the document is then made when somebody reads it.
type Named interface {
	Source
	// Hash changes with the document, and is the same for the same one after a restart.
	Hash(name string) string
}

// Handler serves the documents. Safe for concurrent use.
type Handler struct {
	v2Hash  string
	builtIn map[string]string // document → hash
	index   atomic.Pointer[index]

	mu      sync.Mutex // guards sources and the making of an index
	sources []Source
	merged  *mergedV2 // guarded by mu
}

// index is the set of v3 documents at one time.
type index struct {
	sources   []Source
	revisions []uint64
	body      []byte
	etag      string
	hash      map[string]string
	extra     map[string]*extra
}

// extra is a document of a source.
type extra struct {
	source   Source
	name     string
	revision uint64
	hash     string

	mu         sync.Mutex
	compressed []byte // guarded by mu; nil until it is made
}

// bytes returns the document, compressed; nil if it is gone meanwhile.
func (e *extra) bytes() ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.compressed != nil {
		return e.compressed, nil
	}
	doc, err := e.source.Document(e.name)
	if err != nil || doc == nil {
		return nil, err
	}
	e.compressed, err = compress(doc)
	return e.compressed, err
}

// New reads the embedded index.
func New() (*Handler, error) {
	b, err := data.ReadFile("data/index.json")
	if err != nil {
		return nil, fmt.Errorf("reading the embedded OpenAPI index: %w", err)
	}
	var i struct {
		V2 string            `json:"v2"`
		V3 map[string]string `json:"v3"`
	}
	if err := json.Unmarshal(b, &i); err != nil {
		return nil, fmt.Errorf("reading the embedded OpenAPI index: %w", err)
	}
	h := &Handler{v2Hash: i.V2, builtIn: i.V3}
	_, err = h.current()
	return h, err
}

// AddSource lets a source's documents be served besides the built-in ones. A built-in document wins over one of its name, and one of an
// earlier source over one of a later.
func (h *Handler) AddSource(s Source) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sources = append(h.sources, s)
	h.index.Store(nil)
}

// current returns the index that is true now. Only what changed is made anew, and nothing before somebody asks.
func (h *Handler) current() (*index, error) {
	if i := h.index.Load(); i != nil && i.fresh() {
		return i, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.index.Load()
	if old != nil && old.fresh() {
		return old, nil
	}
	next, err := h.makeIndex(old)
	if err != nil {
		return nil, err
	}
	h.index.Store(next)
	return next, nil
}

func (i *index) fresh() bool {
	for n, s := range i.sources {
		if s.Revision() != i.revisions[n] {
			return false
		}
	}
	return true
}

func (h *Handler) makeIndex(old *index) (*index, error) {
	type entry struct {
		URL string `json:"serverRelativeURL"`
	}
	next := &index{sources: h.sources, hash: maps.Clone(h.builtIn), extra: map[string]*extra{}}
	for _, s := range h.sources {
		next.revisions = append(next.revisions, s.Revision()) // before the look: what changes meanwhile is seen the next time
		for name, revision := range s.Documents() {
			if _, taken := next.hash[name]; taken {
				continue
			}
			var e *extra
			if old != nil {
				e = old.extra[name]
			}
			if e == nil || e.source != s || e.revision != revision {
				var err error
				if e, err = fetch(s, name, revision); err != nil {
					return nil, fmt.Errorf("OpenAPI document %s: %w", name, err)
				}
			}
			if e != nil {
				next.hash[name], next.extra[name] = e.hash, e
			}
		}
	}
	paths := map[string]entry{}
	for name, hash := range next.hash {
		paths[name] = entry{URL: "/openapi/v3/" + name + "?hash=" + hash}
	}
	body, err := json.Marshal(struct {
		Paths map[string]entry `json:"paths"`
	}{paths})
	if err != nil {
		return nil, fmt.Errorf("writing the OpenAPI index: %w", err)
	}
	next.body, next.etag = body, quote(hashOf(body))
	return next, nil
}

// fetch asks a source for a document; nil is one that is gone meanwhile.
func fetch(s Source, name string, revision uint64) (*extra, error) {
	if n, ok := s.(Named); ok {
		return &extra{source: s, name: name, revision: revision, hash: hashOf([]byte(name + " " + n.Hash(name)))}, nil
	}
	doc, err := s.Document(name)
	if err != nil || doc == nil {
		return nil, err
	}
	e := &extra{source: s, name: name, revision: revision, hash: hashOf(doc)}
	e.compressed, err = compress(doc)
	return e, err
}

func compress(doc []byte) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(doc); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

func quote(hash string) string { return `"` + hash + `"` }

// ServeHTTP answers /openapi/v2, /openapi/v3 and below.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.Path; {
	case path == "/openapi/v2":
		h.serveV2(w, r)
	case path == "/openapi/v3":
		i, err := h.current()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if notModified(w, r, i.etag) {
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if r.Method != http.MethodHead {
			_, _ = w.Write(i.body) // a client that went away is nobody's error
		}
	case strings.HasPrefix(path, "/openapi/v3/"):
		h.serveV3(w, r, strings.TrimPrefix(path, "/openapi/v3/"))
	default:
		http.Error(w, "404 page not found", http.StatusNotFound)
	}
}

func (h *Handler) serveV2(w http.ResponseWriter, r *http.Request) {
	file, contentType := "", ""
	for _, a := range accepts(r.Header.Get("Accept")) {
		switch full := a.Type + "/" + a.SubType; full {
		case jsonType, "*/*", "application/*":
			file, contentType = v2JSON, jsonType
		case protoAsked, protoAnswered:
			file, contentType = v2Proto, protoAnswered
		default:
			continue
		}
		break
	}
	if file == "" {
		w.WriteHeader(http.StatusNotAcceptable)
		return
	}
	w.Header().Set("Vary", "Accept")
	h.sendV2(w, r, file, contentType)
}

func (h *Handler) serveV3(w http.ResponseWriter, r *http.Request, name string) {
	i, err := h.current()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	hash, ok := i.hash[name]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	acceptable := false
	for _, a := range accepts(r.Header.Get("Accept")) {
		full := a.Type + "/" + a.SubType
		acceptable = acceptable || full == jsonType || full == "*/*" || full == "application/*"
	}
	if !acceptable {
		w.WriteHeader(http.StatusNotAcceptable)
		return
	}
	if asked := r.URL.Query().Get("hash"); asked != "" {
		if asked != hash {
			u := url.URL{Path: r.URL.Path, RawQuery: url.Values{"hash": {hash}}.Encode()}
			http.Redirect(w, r, u.String(), http.StatusMovedPermanently)
			return
		}
		// The address names the content, so it may be kept for good (RFC 8246).
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	w.Header().Set("Vary", "Accept")
	if notModified(w, r, quote(hash)) {
		return
	}
	var compressed []byte
	if e := i.extra[name]; e != nil {
		if compressed, err = e.bytes(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if compressed == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
	}
	send(w, r, "data/v3/"+strings.ReplaceAll(name, "/", "_")+".json.gz", compressed, jsonType)
}

// accepts parses an Accept header, best first; none is anything.
func accepts(header string) []goautoneg.Accept {
	if strings.TrimSpace(header) == "" {
		header = "*/*"
	}
	return goautoneg.ParseAccept(header)
}

// notModified sets the ETag and, if the client has it already, says so.
func notModified(w http.ResponseWriter, r *http.Request, etag string) bool {
	w.Header().Set("ETag", etag)
	for t := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
		if t = strings.TrimPrefix(strings.TrimSpace(t), "W/"); t == etag || t == "*" {
			w.WriteHeader(http.StatusNotModified)
			return true
		}
	}
	return false
}

// send writes a compressed document: the bytes if there are any, else the file; unpacked for a client that does not take gzip.
func send(w http.ResponseWriter, r *http.Request, file string, compressed []byte, contentType string) {
	var from io.Reader = bytes.NewReader(compressed)
	if compressed == nil {
		f, err := data.Open(file)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer f.Close()
		from = f
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Add("Vary", "Accept-Encoding")
	if takesGzip(r) {
		w.Header().Set("Content-Encoding", "gzip")
	} else {
		z, err := gzip.NewReader(from)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		from = z
	}
	if r.Method != http.MethodHead {
		_, _ = io.Copy(w, from) // a client that went away is nobody's error
	}
}

func takesGzip(r *http.Request) bool {
	for e := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(e, ";")
		if strings.TrimSpace(name) == "gzip" {
			return strings.ReplaceAll(q, " ", "") != "q=0"
		}
	}
	return false
}
