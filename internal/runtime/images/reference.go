package images

import (
	"fmt"
	"strings"
)

// Limits of the parts of a reference (the distribution project's grammar of references).
const (
	maxNameLength = 255
	maxTagLength  = 128
)

// Reference is a complete, normalised name of an image in a registry.
type Reference struct {
	// Domain is "docker.io" or "host[:port]"; Path is "library/nginx". Tag is set unless there is a digest.
	Domain, Path, Tag, Digest string
}

// Name is the reference without tag and digest: "docker.io/library/nginx".
func (r Reference) Name() string { return r.Domain + "/" + r.Path }

// String is the whole reference. When there are both a tag and a digest, both are shown.
func (r Reference) String() string {
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// ParseReference reads a reference as people write it and completes it as Docker does: the default registry is docker.io, whose
// names of one part are below library/, and the default tag is latest.
func ParseReference(s string) (Reference, error) {
	bad := func(why string) (Reference, error) {
		if why != "" {
			why = ": " + why
		}
		return Reference{}, errorf(KindInvalid, "couldn't parse image name %q: invalid reference format%s", s, why)
	}
	if s == "" {
		return bad("it is empty")
	}
	if isHex(s, 64) {
		return bad("64 hexadecimal digits are an image ID, not a name")
	}
	rest := s
	var r Reference
	if name, digest, ok := strings.Cut(rest, "@"); ok {
		if !validDigest(digest) {
			return bad(fmt.Sprintf("%q is not a digest", digest))
		}
		rest, r.Digest = name, digest
	}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.Contains(rest[i:], "/") {
		rest, r.Tag = rest[:i], rest[i+1:]
		if !validTag(r.Tag) {
			return bad(fmt.Sprintf("%q is not a tag", r.Tag))
		}
	}
	domain, path, ok := strings.Cut(rest, "/")
	if !ok || !(strings.ContainsAny(domain, ".:[") || domain == "localhost" || strings.ToLower(domain) != domain) {
		domain, path = "docker.io", rest
	}
	if domain == "index.docker.io" || domain == "registry-1.docker.io" {
		domain = "docker.io"
	}
	if domain == "docker.io" && !strings.Contains(path, "/") {
		path = "library/" + path
	}
	r.Domain, r.Path = domain, path
	switch {
	case !validDomain(domain):
		return bad(fmt.Sprintf("%q is not a registry", domain))
	case strings.ToLower(path) != path:
		return bad(fmt.Sprintf("repository name (%s) must be lowercase", path))
	case !validPath(path):
		return bad("")
	case len(r.Name()) > maxNameLength:
		return bad(fmt.Sprintf("repository name must not be longer than %d characters", maxNameLength))
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = "latest"
	}
	return r, nil
}

func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return true
}

// validDigest accepts the two algorithms of the OCI image specification that registries use.
func validDigest(s string) bool {
	alg, hex, _ := strings.Cut(s, ":")
	return alg == "sha256" && isHex(hex, 64) || alg == "sha512" && isHex(hex, 128)
}

func alphanumeric(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

func validTag(s string) bool {
	if s == "" || len(s) > maxTagLength {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(alphanumeric(c) || 'A' <= c && c <= 'Z' || c == '_' || i > 0 && (c == '.' || c == '-')) {
			return false
		}
	}
	return true
}

// validPath: parts of lower-case letters and digits, joined within by ".", "_", "__" or any number of "-".
func validPath(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || !alphanumeric(part[0]) || !alphanumeric(part[len(part)-1]) {
			return false
		}
		for i := 0; i < len(part); {
			if alphanumeric(part[i]) {
				i++
				continue
			}
			j := i
			for j < len(part) && !alphanumeric(part[j]) {
				j++
			}
			if sep := part[i:j]; sep != "." && sep != "_" && sep != "__" && strings.Trim(sep, "-") != "" {
				return false
			}
			i = j
		}
	}
	return true
}

func validDomain(s string) bool {
	host, port := s, ""
	if strings.HasPrefix(s, "[") {
		i := strings.IndexByte(s, ']')
		if i < 0 {
			return false
		}
		for _, c := range []byte(s[1:i]) {
			if !(c == ':' || c == '.' || '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
				return false
			}
		}
		if i == 1 {
			return false
		}
		host, port = "", s[i+1:]
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i:]
	}
	if port != "" {
		if len(port) < 2 || len(port) > 6 || port[0] != ':' || strings.Trim(port[1:], "0123456789") != "" {
			return false
		}
	}
	if strings.HasPrefix(s, "[") {
		return true
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(strings.ToLower(label)) {
			if !alphanumeric(c) && c != '-' {
				return false
			}
		}
	}
	return true
}
