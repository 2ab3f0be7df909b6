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
	"net/http"
	"net/url"
	"strings"
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

// Handler serves the documents. Safe for concurrent use.
type Handler struct {
	v2Hash  string
	builtIn map[string]string // document → hash
	index   atomic.Pointer[index]
}

// index is the set of v3 documents at one time.
type index struct {
	body  []byte
	etag  string
	hash  map[string]string
	extra map[string][]byte // compressed
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
	return h, h.SetExtra(nil)
}

// SetExtra replaces the documents that are served besides the built-in ones: JSON by name, like "apis/example.com/v1". A built-in
// document wins over an extra one of its name.
func (h *Handler) SetExtra(docs map[string][]byte) error {
	type entry struct {
		URL string `json:"serverRelativeURL"`
	}
	next := &index{hash: map[string]string{}, extra: map[string][]byte{}}
	paths := map[string]entry{}
	for name, doc := range docs {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write(doc); err != nil {
			return fmt.Errorf("compressing %s: %w", name, err)
		}
		if err := z.Close(); err != nil {
			return fmt.Errorf("compressing %s: %w", name, err)
		}
		next.hash[name], next.extra[name] = hashOf(doc), b.Bytes()
	}
	for name, hash := range h.builtIn {
		next.hash[name] = hash
		delete(next.extra, name)
	}
	for name, hash := range next.hash {
		paths[name] = entry{URL: "/openapi/v3/" + name + "?hash=" + hash}
	}
	body, err := json.Marshal(struct {
		Paths map[string]entry `json:"paths"`
	}{paths})
	if err != nil {
		return fmt.Errorf("writing the OpenAPI index: %w", err)
	}
	next.body, next.etag = body, quote(hashOf(body))
	h.index.Store(next)
	return nil
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

func quote(hash string) string { return `"` + hash + `"` }

// ServeHTTP answers /openapi/v2, /openapi/v3 and below.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch path := strings.TrimSuffix(r.URL.Path, "/"); {
	case path == "/openapi/v2":
		h.serveV2(w, r)
	case path == "/openapi/v3":
		i := h.index.Load()
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
		w.WriteHeader(http.StatusNotFound)
	}
}

func (h *Handler) serveV2(w http.ResponseWriter, r *http.Request) {
	file, contentType := "", ""
	for _, a := range accepts(r.Header.Get("Accept")) {
		switch full := a.Type + "/" + a.SubType; full {
		case jsonType, "*/*", "application/*":
			file, contentType = "data/v2.json.gz", jsonType
		case protoAsked, protoAnswered:
			file, contentType = "data/v2.pb.gz", protoAnswered
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
	if notModified(w, r, quote(h.v2Hash)) {
		return
	}
	send(w, r, file, nil, contentType)
}

func (h *Handler) serveV3(w http.ResponseWriter, r *http.Request, name string) {
	i := h.index.Load()
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
	send(w, r, "data/v3/"+strings.ReplaceAll(name, "/", "_")+".json.gz", i.extra[name], jsonType)
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
