package apiserver

// plainLabelLength is the longest name and the longest value of a label.
const plainLabelLength = 63

// plainLabels says that labels are surely valid, without asking the library, which asks regular expressions: names without a prefix, of the usual characters. Others
// may be valid too.
func plainLabels(labels map[string]string) bool {
	for name, value := range labels {
		if !plainLabel(name) || value != "" && !plainLabel(value) {
			return false
		}
	}
	return true
}

// plainLabel says that s begins and ends with a letter or a digit, and has only those and "-", "_" and "." between.
func plainLabel(s string) bool {
	if s == "" || len(s) > plainLabelLength || !alphanumeric(s[0]) || !alphanumeric(s[len(s)-1]) {
		return false
	}
	for i := 1; i < len(s)-1; i++ {
		if c := s[i]; !alphanumeric(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
