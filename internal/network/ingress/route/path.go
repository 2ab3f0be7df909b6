package route

import (
	"errors"
	"strings"
)

// Why a target is refused.
var (
	errNoPath      = errors.New("the target is no path")
	errEscape      = errors.New("the path has a broken escape")
	errControl     = errors.New("the path has control characters")
	errAboveRoot   = errors.New("the path leads above the root")
	errHiddenSlash = errors.New("the path hides a step upwards in an escaped slash")
)

// Path is the path of a request.
type Path struct {
	// Match is what rules are compared with: decoded, without "." and ".." and without empty elements. A decoded slash within an element is a zero byte here, so that
	// it never parts elements.
	Match string
	// Forward is what a backend gets to see: as the client wrote it, unless there were steps ("." and ".."), which are taken before anybody else can understand
	// them differently.
	Forward string
}

// CleanPath understands the path of a target, which is what comes before the question mark. An escaped slash (%2F) is data of its element; together with ".." it
// is refused, because a backend may read it as a separator.
func CleanPath(raw string) (Path, error) {
	if raw == "" || raw[0] != '/' {
		return Path{}, errNoPath
	}
	if plain(raw) {
		return Path{Match: raw, Forward: raw}, nil
	}
	segments := strings.Split(raw[1:], "/")
	decoded := make([]string, 0, len(segments))
	kept := make([]string, 0, len(segments))
	stepped := false
	for i, s := range segments {
		d, err := decodeSegment(s)
		if err != nil {
			return Path{}, err
		}
		last := i == len(segments)-1
		switch {
		case d == ".", d == "..":
			stepped = true
			if d == ".." {
				// Empty elements are skipped, as a server that merges slashes would.
				for len(decoded) > 0 && decoded[len(decoded)-1] == "" {
					decoded, kept = decoded[:len(decoded)-1], kept[:len(kept)-1]
				}
				if len(decoded) == 0 {
					return Path{}, errAboveRoot
				}
				decoded, kept = decoded[:len(decoded)-1], kept[:len(kept)-1]
			}
			if last {
				decoded, kept = append(decoded, ""), append(kept, "")
			}
		default:
			decoded, kept = append(decoded, d), append(kept, s)
		}
	}
	p := Path{Forward: raw}
	if stepped {
		p.Forward = "/" + strings.Join(kept, "/")
	}
	var b strings.Builder
	b.Grow(len(raw))
	for i, d := range decoded {
		if d == "" && i < len(decoded)-1 {
			continue
		}
		b.WriteByte('/')
		b.WriteString(d)
	}
	p.Match = b.String()
	if p.Match == "" {
		p.Match = "/"
	}
	return p, nil
}

// plain says that nothing in the path needs a second look, which is nearly always so.
func plain(raw string) bool {
	for i := range len(raw) {
		switch c := raw[i]; {
		case c == '%', c < 0x21, c == 0x7f, c == '?', c == '#', c == '\\':
			return false
		case c == '/' && i+1 < len(raw) && (raw[i+1] == '/' || raw[i+1] == '.'):
			return false
		}
	}
	return true
}

func decodeSegment(s string) (string, error) {
	var b []byte
	hidden := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '%':
			if i+2 >= len(s) {
				return "", errEscape
			}
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi > 15 || lo > 15 {
				return "", errEscape
			}
			if b == nil {
				b = append(make([]byte, 0, len(s)), s[:i]...)
			}
			i += 2
			switch c = hi<<4 | lo; {
			case c == '/':
				c, hidden = 0, true
			case c == '\\':
				hidden = true
			case c < 0x20 || c == 0x7f:
				return "", errControl
			}
			b = append(b, c)
			continue
		case c < 0x21 || c == 0x7f || c == '#' || c == '?':
			return "", errControl
		case c == '\\':
			hidden = true
		}
		if b != nil {
			b = append(b, c)
		}
	}
	if b != nil {
		s = string(b)
	}
	if hidden {
		for part := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == 0 || r == '\\' }) {
			if strings.TrimRight(part, " ;") == ".." || strings.HasPrefix(part, "..;") {
				return "", errHiddenSlash
			}
		}
	}
	if strings.HasPrefix(s, "..;") {
		return "", errHiddenSlash // path parameters, which some servers cut off before they take the step
	}
	return s, nil
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

var errHost = errors.New("the host is no name")

// maxHost is how long a name may be (RFC 1035).
const maxHost = 253

// CleanHost is the name of a Host header, without port and in lower case.
func CleanHost(raw string) (string, error) {
	host := raw
	if strings.HasPrefix(host, "[") {
		end := strings.IndexByte(host, ']')
		if end < 0 || !port(host[end+1:]) {
			return "", errHost
		}
		for i := 1; i < end; i++ {
			if c := host[i]; unhex(c) > 15 && c != ':' && c != '.' {
				return "", errHost
			}
		}
		return strings.ToLower(host[:end+1]), nil
	}
	if i := strings.IndexByte(host, ':'); i >= 0 {
		if !port(host[i:]) {
			return "", errHost
		}
		host = host[:i]
	}
	host = strings.TrimSuffix(host, ".")
	if host == "" || len(host) > maxHost {
		return "", errHost
	}
	upper := false
	for i := range len(host) {
		switch c := host[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		case c == '.' && i > 0 && host[i-1] != '.' && i < len(host)-1: // no label is empty
		case 'A' <= c && c <= 'Z':
			upper = true
		default:
			return "", errHost
		}
	}
	if upper {
		host = strings.ToLower(host)
	}
	return host, nil
}

// port says whether s is nothing, or a colon and at most five digits.
func port(s string) bool {
	if s == "" {
		return true
	}
	if s[0] != ':' || len(s) > 6 {
		return false
	}
	for i := 1; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
