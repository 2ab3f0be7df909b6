package gather

import (
	"crypto/tls"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// TestOldCiphers: a connection with a cipher suite that HTTP/2 must not be spoken with is told so, and ended (RFC 9113, section 9.2.2).
func TestOldCiphers(t *testing.T) {
	client, address, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	address = strings.TrimPrefix(address, "https://")
	trusted := client.Transport.(*http.Transport).TLSClientConfig
	for _, c := range []struct {
		name   string
		suites []uint16
		frame  http2.FrameType
	}{
		{"old", []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}, http2.FrameGoAway},
		{"good", []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}, http2.FrameSettings},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := trusted.Clone()
			config.NextProtos, config.MaxVersion, config.CipherSuites = []string{"h2"}, tls.VersionTLS12, c.suites
			config.ServerName = "example.com"
			conn, err := tls.Dial("tcp", address, config)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if p := conn.ConnectionState().NegotiatedProtocol; p != "h2" {
				t.Fatalf("the protocol is %q", p)
			}
			framer := http2.NewFramer(conn, conn)
			if c.frame == http2.FrameSettings {
				if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
					t.Fatal(err)
				}
				if err := framer.WriteSettings(); err != nil {
					t.Fatal(err)
				}
			}
			f, err := framer.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if f.Header().Type != c.frame {
				t.Fatalf("got %v", f)
			}
			if g, ok := f.(*http2.GoAwayFrame); ok {
				if g.ErrCode != http2.ErrCodeInadequateSecurity {
					t.Errorf("told %v", g.ErrCode)
				}
				if _, err := framer.ReadFrame(); err == nil {
					t.Error("the connection is still open")
				}
			}
		})
	}
}
