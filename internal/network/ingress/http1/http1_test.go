package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestEnd(t *testing.T) {
	for text, want := range map[string]int{
		"": 0, "a": 0, "a\r\n": 0, "a\r\n\r\n": 5, "a\r\n\r\nb": 5, "a\n\nb": 3, "a\n\r\nb": 4, "a\r\n\r": 0, "a\r\nb\r\n\r\nc": 8,
	} {
		if got := End([]byte(text), 0); got != want {
			t.Errorf("%q: got %d, want %d", text, got, want)
		}
		// However it arrives, the end is found.
		for from := range len(text) {
			if got := End([]byte(text), 0); got > 0 && from < got {
				if again := End([]byte(text), from); again != got {
					t.Errorf("%q from %d: got %d, want %d", text, from, again, got)
				}
			}
		}
	}
}

func TestParseRequest(t *testing.T) {
	var h Head
	text := "POST /a?b HTTP/1.1\r\nHost: a.example\r\ncontent-length: 12\r\nConnection: close, Upgrade,X-Mine\r\nUPGRADE: websocket\r\nExpect: 100-Continue\r\nX_Forwarded-For: 1\r\nX-Forwarded-For: 2\r\nX-Mine:\t v  \r\nTe: trailers\r\n\r\n"
	if err := h.ParseRequest([]byte(text), 20); err != nil {
		t.Fatal(err)
	}
	if string(h.Method) != "POST" || string(h.Target) != "/a?b" || h.Minor != 1 || h.Length != 12 || h.Chunked || string(h.HostValue) != "a.example" || !h.Close || h.KeepAlive || !h.Upgrades ||
		string(h.UpgradeTo) != "websocket" || !h.Continue || h.Reusable() || !h.Names() || !h.Named([]byte("x-mine")) || h.Named([]byte("mine")) || h.Get("X-MINE") != "v" || h.Get("x") != "" {
		t.Errorf("got %+v", h)
	}
	var kinds []Kind
	for _, f := range h.Fields {
		kinds = append(kinds, f.Kind)
	}
	if want := []Kind{Host, ContentLength, Connection, Upgrade, Expect, Alias, Managed, Other, Hop}; fmt.Sprint(kinds) != fmt.Sprint(want) {
		t.Errorf("kinds %v, want %v", kinds, want)
	}
	for text, want := range map[string]error{
		"GET / HTTP/1.1\r\nHost: a\r\nX: a\nb\r\n\r\n":              ErrBareLF,
		"GET / HTTP/1.1\r\nHost: a\r\n X: a\r\n\r\n":                ErrFold,
		"GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n":                ErrField,
		"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n":              ErrField,
		"GET / HTTP/1.1\r\n\r\n":                                    ErrHost,
		"GET / HTTP/2.0\r\nHost: a\r\n\r\n":                         ErrVersion,
		"GET / http/1.1\r\nHost: a\r\n\r\n":                         ErrLine,
		"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n":                        ErrLine,
		"GET / HTTP/1.1 \r\nHost: a\r\n\r\n":                        ErrLine,
		"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n": ErrCoding,
		"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nA: b\r\nA: b\r\n\r\n": ErrTooMany,
	} {
		if err := h.ParseRequest([]byte(text), 3); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", text, err, want)
		}
	}
}

// trickle gives what it has in pieces of a size.
type trickle struct {
	rest []byte
	size int
}

func (t *trickle) Read(b []byte) (int, error) {
	if len(t.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, t.rest[:min(t.size, len(t.rest))])
	t.rest = t.rest[n:]
	return n, nil
}

func readBody(f Framing, length int64, text string, size int, strict bool) (body, rest string, err error) {
	r := &Reader{Conn: &trickle{[]byte(text), size}, Buf: make([]byte, 512)}
	var b Body
	b.Begin(f, length, strict)
	var out []byte
	for {
		p, err := b.Next(r)
		if errors.Is(err, io.EOF) {
			for r.Fill() == nil && r.W < len(r.Buf) {
			}
			return string(out), string(r.Buffered()), nil
		}
		if err != nil {
			return string(out), "", err
		}
		out = append(out, p...)
	}
}

func TestBody(t *testing.T) {
	for name, tt := range map[string]struct {
		f      Framing
		length int64
		text   string
		body   string
		rest   string
		err    error
	}{
		"none":              {None, 0, "next", "", "next", nil},
		"sized":             {Sized, 5, "hellonext", "hello", "next", nil},
		"empty":             {Sized, 0, "next", "", "next", nil},
		"short":             {Sized, 5, "hel", "hel", "", io.ErrUnexpectedEOF},
		"until the end":     {UntilClose, 0, "hello", "hello", "", nil},
		"chunks":            {Chunks, 0, "5\r\nhello\r\nA;x=\"y\"\r\n0123456789\r\n0\r\n\r\nnext", "hello0123456789", "next", nil},
		"trailer":           {Chunks, 0, "1\r\na\r\n000\r\nX: y\r\nZ: w\r\n\r\nnext", "a", "next", nil},
		"broken off":        {Chunks, 0, "5\r\nhel", "hel", "", io.ErrUnexpectedEOF},
		"without an end":    {Chunks, 0, "1\r\na\r\n", "a", "", io.ErrUnexpectedEOF},
		"no size":           {Chunks, 0, "\r\n", "", "", ErrChunk},
		"space":             {Chunks, 0, " 1\r\na\r\n0\r\n\r\n", "", "", ErrChunk},
		"0x":                {Chunks, 0, "0x1\r\na\r\n0\r\n\r\n", "", "", ErrChunk},
		"plus":              {Chunks, 0, "+1\r\na\r\n0\r\n\r\n", "", "", ErrChunk},
		"huge":              {Chunks, 0, "ffffffffffffffff\r\n", "", "", ErrChunk},
		"long extension":    {Chunks, 0, "1;" + strings.Repeat("x", 400) + "\r\na\r\n0\r\n\r\n", "", "", ErrChunk},
		"bare line feed":    {Chunks, 0, "1\na\r\n0\r\n\r\n", "", "", ErrBareLF},
		"no end of chunk":   {Chunks, 0, "1\r\nab\r\n0\r\n\r\n", "a", "", ErrChunk},
		"malformed trailer": {Chunks, 0, "0\r\nX\r\n\r\n", "", "", ErrField},
		"long trailer":      {Chunks, 0, "0\r\n" + strings.Repeat("X: 0123456789\r\n", 600) + "\r\n", "", "", ErrTrailer},
	} {
		for _, size := range []int{1, 2, 3, 7, 1000} {
			body, rest, err := readBody(tt.f, tt.length, tt.text, size, true)
			if !errors.Is(err, tt.err) || body != tt.body || err == nil && rest != tt.rest {
				t.Errorf("%s by %d: got %q, %q, %v, want %q, %q, %v", name, size, body, rest, err, tt.body, tt.rest, tt.err)
			}
		}
	}
}

// What AppendChunk writes, Body reads, wherever the pieces end.
func TestChunksRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var text []byte
		want := ""
		for _, p := range rapid.SliceOf(rapid.StringN(0, -1, 300)).Draw(t, "pieces") {
			text = AppendChunk(text, []byte(p))
			want += p
		}
		text = append(text, "0\r\n\r\nnext"...)
		body, rest, err := readBody(Chunks, 0, string(text), rapid.IntRange(1, 600).Draw(t, "size"), true)
		if err != nil || body != want || rest != "next" {
			t.Fatalf("got %q, %q, %v", body, rest, err)
		}
	})
}

// Whatever we accept, net/http accepts and frames the same: it stands for the many who read what we forward.
func FuzzParseRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
		"GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nConnection: a, close\r\nX: \t y \r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		n := End(text, 0)
		var h Head
		if n == 0 || h.ParseRequest(text[:n], 100) != nil {
			return
		}
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(text)))
		if err != nil {
			// It also parses the target as a URL and the host, which is not this package's work.
			if strings.Contains(err.Error(), "parse ") || strings.Contains(err.Error(), "malformed Host") || strings.Contains(err.Error(), "invalid URI") {
				return
			}
			t.Fatalf("%q: net/http says %v", text[:n], err)
		}
		chunked := len(req.TransferEncoding) > 0
		if chunked != h.Chunked || !chunked && req.ContentLength != max(h.Length, 0) {
			t.Fatalf("%q: chunked %v, length %d; net/http says %v, %d", text[:n], h.Chunked, h.Length, req.TransferEncoding, req.ContentLength)
		}
	})
}

func FuzzParseResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"))
	f.Add([]byte("HTTP/1.0 304\nX: y\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		n := End(text, 0)
		var h Head
		if n == 0 || h.ParseResponse(text[:n], 100) != nil {
			return
		}
		for _, field := range h.Fields {
			if bytes.ContainsAny(field.Value, "\r\n\x00") || bytes.ContainsAny(field.Name, " \r\n:") {
				t.Fatalf("%q: field %q: %q", text, field.Name, field.Value)
			}
		}
		if h.Code < 100 || h.Code > 599 || h.Chunked && h.Length >= 0 {
			t.Fatalf("%q: %+v", text, h)
		}
	})
}

func FuzzBody(f *testing.F) {
	f.Add("5\r\nhello\r\n0\r\n\r\n", 3)
	f.Fuzz(func(t *testing.T, text string, size int) {
		if size < 1 {
			return
		}
		body, _, err := readBody(Chunks, 0, text, size, true)
		again, _, err2 := readBody(Chunks, 0, text, 1000, true)
		if body != again && err == nil || (err == nil) != (err2 == nil) {
			t.Fatalf("%q: by %d %q, %v; at once %q, %v", text, size, body, err, again, err2)
		}
	})
}

func BenchmarkParseRequest(b *testing.B) {
	text := []byte("GET /api/v1/things/42?full=true HTTP/1.1\r\nHost: a.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: text/html,application/xhtml+xml\r\nAccept-Encoding: gzip, deflate, br\r\nAccept-Language: en\r\nCookie: session=0123456789abcdef\r\nConnection: keep-alive\r\n\r\n")
	var h Head
	b.ReportAllocs()
	for b.Loop() {
		if n := End(text, 0); h.ParseRequest(text[:n], 100) != nil {
			b.Fatal("not parsed")
		}
	}
}
