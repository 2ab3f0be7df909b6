package authn

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// documentAge is how long clients may keep the documents, in seconds.
const documentAge = 60 * 60

// KeysHandler serves the key set at KeysPath.
func (i *Issuer) KeysHandler() (http.Handler, error) {
	data, err := i.Keys()
	if err != nil {
		return nil, fmt.Errorf("encode the service account keys: %w", err)
	}
	return document(data, KeysContentType), nil
}

// DiscoveryHandler serves the document at DiscoveryPath; server is the URL that the API server is reached at.
func (i *Issuer) DiscoveryHandler(server string) (http.Handler, error) {
	data, err := i.Discovery(server)
	if err != nil {
		return nil, fmt.Errorf("encode the OpenID configuration: %w", err)
	}
	return document(data, "application/json"), nil
}

func document(data []byte, contentType string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		if !accepts(r.Header.Values("Accept"), contentType) {
			h.Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotAcceptable)
			// It encodes, and a client that left needs no answer.
			_ = json.NewEncoder(w).Encode(metav1.Status{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
				Status:   metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
				Message: "406: Not Acceptable\n\nAvailable representations: " + contentType, Details: &metav1.StatusDetails{},
			})
			return
		}
		h.Set("Content-Type", contentType)
		h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d", documentAge))
		_, _ = w.Write(data) // a client that left
	})
}

// accepts tells whether an Accept header takes a media type; none takes all (RFC 9110, section 12.5.1).
func accepts(header []string, mediaType string) bool {
	if len(header) == 0 {
		return true
	}
	family, _, _ := strings.Cut(mediaType, "/")
	for part := range strings.SplitSeq(strings.Join(header, ","), ",") {
		name, _, _ := strings.Cut(part, ";")
		switch name = strings.ToLower(strings.TrimSpace(name)); name {
		case mediaType, "*/*", family + "/*":
			return true
		}
	}
	return false
}
