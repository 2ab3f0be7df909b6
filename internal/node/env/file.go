package env

import (
	"fmt"
	"strings"
)

// MaxFileBytes bounds an environment file.
const MaxFileBytes = 64 << 10

// ParseFile reads an environment file: lines of NAME='value'; blank lines and lines that begin with # say nothing. A
// value in single quotes may span lines.
func ParseFile(data []byte) (map[string]string, error) {
	if len(data) > MaxFileBytes {
		return nil, fmt.Errorf("the file is larger than %d bytes", MaxFileBytes)
	}
	out := map[string]string{}
	rest := string(data)
	for n := 1; rest != ""; n++ {
		line, tail, _ := strings.Cut(rest, "\n")
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || strings.HasPrefix(trimmed, "#") {
			rest = tail
			continue
		}
		name, value, ok := strings.Cut(strings.TrimLeft(rest, " \t"), "=")
		if !ok || strings.Contains(name, "\n") || strings.TrimSpace(name) == "" || strings.ContainsAny(name, " \t") {
			return nil, fmt.Errorf("line %d: expected NAME='value'", n)
		}
		if !strings.HasPrefix(value, "'") {
			value, rest, _ = strings.Cut(value, "\n")
			out[name] = strings.TrimSpace(value)
			continue
		}
		end := strings.IndexByte(value[1:], '\'')
		if end < 0 {
			return nil, fmt.Errorf("line %d: the quoted value of %s does not end", n, name)
		}
		out[name] = value[1 : 1+end]
		n += strings.Count(out[name], "\n")
		after, tail, _ := strings.Cut(value[2+end:], "\n")
		if strings.TrimSpace(after) != "" {
			return nil, fmt.Errorf("line %d: unexpected text after the value of %s", n, name)
		}
		rest = tail
	}
	return out, nil
}
