package serve

import (
	"testing"
)

func TestRouting(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(map[bool]string{false: "HTTP/1", true: "HTTP/2"}[h2], func(t *testing.T) {
			st := newStage(t, Config{})
			st.backend("a", hello("a"))
			st.backend("b", hello("b"))
			st.set(ingressOf("i", nil, "a.example/>a", "a.example/b>b", "*.wild.example/>b"))
			c := st.client(h2)
			for _, tt := range []struct {
				url  string
				code int
				want string
			}{
				{"https://a.example/x?y=1", 200, "a /x?y=1"},
				{"https://a.example/b/../b/c", 200, "b /b/c"},
				{"https://a.example/b//c", 200, "b /b//c"},
				{"https://a.example/a%20b%2Fc", 200, "a /a%20b%2Fc"},
				{"https://x.wild.example/", 200, "b /"},
				{"https://wild.example/", 404, ""},
				{"https://x.y.wild.example/", 404, ""},
			} {
				code, body, _ := get(t, c, request(t, "GET", tt.url, nil))
				if code != tt.code || tt.want != "" && body != tt.want {
					t.Errorf("%s: got %d %q, want %d %q", tt.url, code, body, tt.code, tt.want)
				}
			}
		})
	}
}
