package negotiate

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The media types that objects are served in.
const (
	JSON     = "application/json"
	YAML     = "application/yaml"
	Protobuf = "application/vnd.kubernetes.protobuf"
	Text     = "text/plain"
)

const (
	all     = JSON + ", " + YAML + ", " + Protobuf
	streams = JSON + ";stream=watch, " + Protobuf + ";stream=watch"
)

// Shape is what an answer shows of the objects.
type Shape int8

// The shapes: the objects themselves, their metadata only (one object or a list), or rows of a table.
const (
	Whole Shape = iota
	Metadata
	MetadataList
	Table
)

// Accept is what the client wants to get.
type Accept struct {
	// Media is JSON, YAML or Protobuf.
	Media string
	Shape Shape
	// MetaVersion is the version of meta.k8s.io that Metadata, MetadataList and Table are shown in.
	MetaVersion string
	// Pretty asks for indented JSON.
	Pretty bool
}

// plainJSON is the commonest wish.
var plainJSON = Accept{Media: JSON}

type clause struct {
	media  string
	exact  string // media as it is written: the routes are particular about that
	params [][2]string
	q      float64
}

// ParseAccept settles on the first clause of the Accept headers, by preference, that the server can serve. It fails with 406
// as upstream does: in one way when no media type is known, in another when none can be shown in the wanted shape.
func ParseAccept(header http.Header) (Accept, error) { return parseAccept(header, true, true, "") }

// ParseTablelessAccept is ParseAccept for questions that are never stored: their answers are no rows of a table.
func ParseTablelessAccept(header http.Header) (Accept, error) {
	return parseAccept(header, true, false, "")
}

// ParseTextAccept is ParseTablelessAccept where texts are served: who names their type is let in, but has to take one of the others for errors.
func ParseTextAccept(header http.Header) (Accept, error) {
	return parseAccept(header, true, false, Text)
}

// Routed says whether a media type of the Accept headers is known, in whatever shape.
func Routed(header http.Header) bool {
	_, err := ParseAccept(header)
	s, ok := err.(apierrors.APIStatus)
	return !ok || s.Status().Details == nil
}

// ParseUntypedAccept is ParseAccept for kinds that have no protobuf form: only their metadata has one.
func ParseUntypedAccept(header http.Header) (Accept, error) {
	return parseAccept(header, false, true, "")
}

// ParseErrorAccept is ParseAccept for errors, which have no other shape than their own. False means that nothing that the client accepts can be served.
func ParseErrorAccept(header http.Header) (Accept, bool) {
	a, err := ParseAccept(header)
	if err == nil && a.Shape == Whole {
		return a, true
	}
	return first(parseClauses(strings.Join(header["Accept"], ",")), func(a Accept) bool { return a.Shape == Whole })
}

// NoStream refuses a watch in a form that has no stream.
func NoStream() error {
	return plain(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, "only the following media types are accepted: "+streams)
}

// ListNotAcceptable is NotAcceptable where lists and watches are served.
func ListNotAcceptable() error {
	return generic(http.StatusNotAcceptable, "get", "406: Not Acceptable\n\nAvailable representations: "+all+", "+streams, metav1.StatusReasonNotAcceptable)
}

// parseAccept reads the headers where more, if it is not "", is a further type that is let in.
func parseAccept(header http.Header, protobuf, tables bool, more string) (Accept, error) {
	values := header["Accept"]
	if len(values) == 0 {
		return plainJSON, nil
	}
	if len(values) == 1 {
		switch values[0] {
		case JSON, "*/*", "", "application/json, */*":
			return plainJSON, nil
		case Protobuf, Protobuf + "," + JSON, Protobuf + ", " + JSON:
			if protobuf {
				return Accept{Media: Protobuf}, nil
			}
		}
	}
	clauses := parseClauses(strings.Join(values, ","))
	known := false
	for _, c := range clauses {
		if c.exact == JSON || c.exact == YAML || c.exact == Protobuf || c.exact == "*/*" || more != "" && c.exact == more {
			known = true
			break
		}
	}
	if !known && protobuf {
		return plainJSON, NotAcceptable(more)
	}
	a, ok := first(clauses, func(a Accept) bool {
		return (protobuf || a.Media != Protobuf || a.Shape != Whole) && (tables || a.Shape != Table)
	})
	if !ok {
		return plainJSON, OnlyAccepted()
	}
	return a, nil
}

// first is the first form that the clauses ask for, by preference, and that will do.
func first(clauses []clause, will func(Accept) bool) (Accept, bool) {
	for _, c := range clauses {
		for _, m := range [...]string{JSON, YAML, Protobuf} {
			if c.media != m && c.media != "*/*" && c.media != "application/*" {
				continue
			}
			if a, ok := c.shape(m); ok && will(a) {
				return a, true
			}
		}
	}
	return plainJSON, false
}

func (c clause) shape(media string) (Accept, bool) {
	a := Accept{Media: media}
	var group, version, kind string
	for _, p := range c.params {
		switch p[0] {
		case "as":
			kind = p[1]
		case "g":
			group = p[1]
		case "v":
			version = p[1]
		case "stream":
			if p[1] != "" && (p[1] != "watch" || media == YAML) {
				return a, false
			}
		case "pretty":
			a.Pretty = p[1] == "1"
		}
	}
	if kind == "" {
		return a, true
	}
	if group != metav1.GroupName || version != "v1" && version != "v1beta1" {
		return a, false
	}
	a.MetaVersion = version
	switch kind {
	case "Table":
		a.Shape = Table
	case "PartialObjectMetadata":
		a.Shape = Metadata
	case "PartialObjectMetadataList":
		a.Shape = MetadataList
	default:
		return a, false
	}
	return a, a.Shape != Table || media != Protobuf
}

// maxClauses bounds how much of an Accept header is read.
const maxClauses = 64

func parseClauses(header string) []clause {
	var out []clause
	for part := range strings.SplitSeq(header, ",") {
		if len(out) == maxClauses {
			break
		}
		media, rest, _ := strings.Cut(part, ";")
		media = strings.TrimSpace(media)
		if media == "" {
			continue
		}
		c := clause{media: strings.ToLower(media), exact: media, q: 1}
		for rest != "" {
			var p string
			p, rest, _ = strings.Cut(rest, ";")
			k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
			k, v = strings.TrimSpace(k), strings.TrimSpace(v)
			if k == "q" {
				if q, err := strconv.ParseFloat(v, 64); err == nil {
					c.q = q
				}
				continue
			}
			c.params = append(c.params, [2]string{k, v})
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b clause) int {
		switch {
		case a.q > b.q:
			return -1
		case a.q < b.q:
			return 1
		}
		return 0
	})
	return out
}

// NotAcceptable says that no media type of the Accept header is known. More, if it is not "", is one that is known beside the others.
func NotAcceptable(more string) error {
	if more != "" {
		more += ", "
	}
	return generic(http.StatusNotAcceptable, "get", "406: Not Acceptable\n\nAvailable representations: "+more+all, metav1.StatusReasonNotAcceptable)
}

// OnlyAccepted says that no form that the Accept header asks for can be served.
func OnlyAccepted() error {
	return plain(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, "only the following media types are accepted: "+all)
}

// UnsupportedPatch says that a PATCH body is of a type that is no patch.
func UnsupportedPatch() error {
	return generic(http.StatusUnsupportedMediaType, "patch", "415: Unsupported Media Type", metav1.StatusReasonUnsupportedMediaType)
}

// UnsupportedCustomPatch says that a PATCH body is of a type that custom resources don't take.
func UnsupportedCustomPatch() error {
	return plain(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
		"the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml")
}

// UnsupportedBody says that a body is of a media type that can't be decoded.
func UnsupportedBody() error {
	return plain(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
		"the body of the request was in an unknown format - accepted media types include: "+all)
}

func plain(code int32, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
}

// generic makes the status of a refusal that happens before the resource's own handler: it has empty details.
func generic(code int, verb, message string, reason metav1.StatusReason) error {
	err := apierrors.NewGenericServerResponse(code, verb, schema.GroupResource{}, "", "", 0, false)
	err.ErrStatus.Message, err.ErrStatus.Reason = message, reason
	return err
}

// MediaOf returns the media type of a Content-Type header without its parameters; an absent one is JSON. Not ok means that
// it can't be one.
func MediaOf(contentType string) (string, bool) {
	if contentType == "" {
		return JSON, true
	}
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	return media, !strings.ContainsAny(media, " \t")
}
