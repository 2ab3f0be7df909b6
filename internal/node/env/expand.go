package env

import "strings"

// Expand replaces $(NAME) by what lookup says. A name that lookup does not know stays as it is written; $$ is a dollar
// sign, so that $$(NAME) comes out as $(NAME). Any other dollar sign stands for itself.
func Expand(s string, lookup func(name string) (string, bool)) string {
	i := strings.IndexByte(s, '$')
	if i < 0 {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	for {
		b.WriteString(s[:i])
		s = s[i:]
		switch {
		case strings.HasPrefix(s, "$$"):
			b.WriteByte('$')
			s = s[2:]
		case strings.HasPrefix(s, "$("):
			end := strings.IndexByte(s, ')')
			if end < 0 {
				b.WriteString("$(")
				s = s[2:]
				break
			}
			if value, ok := lookup(s[2:end]); ok {
				b.WriteString(value)
			} else {
				b.WriteString(s[:end+1])
			}
			s = s[end+1:]
		default:
			b.WriteByte('$')
			s = s[1:]
		}
		if i = strings.IndexByte(s, '$'); i < 0 {
			b.WriteString(s)
			return b.String()
		}
	}
}

// Lookup makes a lookup function of maps that are asked in order.
func Lookup(maps ...map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, m := range maps {
			if v, ok := m[name]; ok {
				return v, true
			}
		}
		return "", false
	}
}

// Unresolved expands s and tells which name, if any, the lookup did not know: a path with such a name must not be used.
func Unresolved(s string, lookup func(string) (string, bool)) (expanded, missing string) {
	expanded = Expand(s, func(name string) (string, bool) {
		v, ok := lookup(name)
		if !ok && missing == "" {
			missing = name
		}
		return v, ok
	})
	return expanded, missing
}
