package serve

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"
)

// TestLeavesLoop: a connection whose requests are none for a loop goes on in a goroutine, with what it has sent already: each request is answered once, in its order.
func TestLeavesLoop(t *testing.T) {
	st := newStage(t, Config{})
	st.backend("a", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d %v", r.Method, r.URL.Path, len(body), err)
	})
	st.set(ingressOf("i", nil, "a.example/>a"))
	large := 3 * inSize
	var chunks strings.Builder
	w := httputil.NewChunkedWriter(&chunks)
	for range 100 {
		if _, err := w.Write([]byte("0123456789")); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, middle := range map[string]string{
		"POST /chunks 1000":  "POST /chunks HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks.String() + "\r\n",
		"PUT /large 24576":   fmt.Sprintf("PUT /large HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n%s", large, strings.Repeat("x", large)),
		"PUT /small 3":       "PUT /small HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc",
		"POST /continue 3":   "POST /continue HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
		"GET /upgrade-not 0": "GET /upgrade-not HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: a.example\r\n\r\n" }
			answers := st.raw(get("/1")+middle+get("/2")+get("/3"), 4)
			for i, want := range []string{"GET /1 0 <nil>", name + " <nil>", "GET /2 0 <nil>", "GET /3 0 <nil>"} {
				if i >= len(answers) {
					t.Fatalf("%d answers", len(answers))
				}
				if got, err := io.ReadAll(answers[i].Body); err != nil || string(got) != want {
					t.Errorf("got %q, %v, want %q", got, err, want)
				}
			}
		})
	}
}
