package custom

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"sync"
)

// keys lends slices for sorting the keys of maps while they are written.
var keys = sync.Pool{New: func() any { return new([]string) }}

// appendValue appends the JSON of a value, as encoding/json would write it.
func appendValue(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case string:
		return appendString(b, v), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case int64:
		return strconv.AppendInt(b, v, 10), nil
	case float64:
		if !math.IsInf(v, 0) && !math.IsNaN(v) && v == math.Trunc(v) && math.Abs(v) < 1e15 {
			return strconv.AppendFloat(b, v, 'f', -1, 64), nil
		}
	case []any:
		if v == nil {
			return append(b, "null"...), nil
		}
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			var err error
			if b, err = appendValue(b, e); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case map[string]any:
		if v == nil {
			return append(b, "null"...), nil
		}
		return appendMap(b, v)
	}
	data, err := json.Marshal(v)
	return append(b, data...), err
}

func appendMap(b []byte, m map[string]any) ([]byte, error) {
	lent := keys.Get().(*[]string) //nolint:forcetypeassert // nothing else is put there
	names := (*lent)[:0]
	for k := range m {
		names = append(names, k)
	}
	slices.Sort(names)
	b = append(b, '{')
	var err error
	for i, k := range names {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, k), ':')
		if b, err = appendValue(b, m[k]); err != nil {
			break
		}
	}
	clear(names)
	*lent = names[:0]
	keys.Put(lent)
	if err != nil {
		return nil, err
	}
	return append(b, '}'), nil
}

// appendString appends a quoted string. What needs care is left to encoding/json.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			data, err := json.Marshal(s)
			if err != nil { // strings can always be written
				return append(b, `""`...)
			}
			return append(b, data...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
