package wire

import (
	"math"
	"unicode/utf8"
)

// document is JSON that is being read.
type document struct {
	data  []byte
	at    int
	depth int
}

// next skips white space and returns the letter that follows, 0 at the end.
func (d *document) next() byte {
	for d.at < len(d.data) {
		switch c := d.data[d.at]; c {
		case ' ', '\t', '\r', '\n':
			d.at++
		default:
			return c
		}
	}
	return 0
}

func (d *document) word(w string) bool {
	if len(d.data)-d.at < len(w) || string(d.data[d.at:d.at+len(w)]) != w {
		return false
	}
	d.at += len(w)
	return true
}

// enter begins an object or list; leave ends it. Both move on.
func (d *document) enter() bool {
	d.at++
	d.depth++
	return d.depth < maxDepth
}

func (d *document) leave() bool {
	d.at++
	d.depth--
	return true
}

func (d *document) colon() bool {
	if d.next() != ':' {
		return false
	}
	d.at++
	return true
}

// members reads an object, of which each reads one member.
func (d *document) members(each func() bool) bool {
	if !d.enter() {
		return false
	}
	if d.next() == '}' {
		return d.leave()
	}
	for {
		if d.next() != '"' || !each() {
			return false
		}
		switch d.next() {
		case ',':
			d.at++
		case '}':
			return d.leave()
		default:
			return false
		}
	}
}

// name reads a member's name that has nothing unusual about it.
func (d *document) name() ([]byte, bool) {
	begin := d.at + 1
	for i := begin; i < len(d.data); i++ {
		switch c := d.data[i]; {
		case c == '"':
			d.at = i + 1
			return d.data[begin:i], true
		case c == '\\', c < ' ', c >= utf8.RuneSelf:
			return nil, false
		}
	}
	return nil, false
}

// simple are the letters of a string that stand for themselves.
var simple = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf
	}
	return t
}()

// span finds the end of a string that begins here, and says whether it is written as it is meant.
func (d *document) span() (end int, literal, ok bool) {
	if d.next() != '"' {
		return 0, false, false
	}
	literal = true
	ascii := true
	for i := d.at + 1; i < len(d.data); i++ {
		c := d.data[i]
		if simple[c] {
			continue
		}
		switch {
		case c == '"':
			return i, literal, ascii || utf8.Valid(d.data[d.at+1:i])
		case c == '\\':
			literal = false
			i++
		case c < ' ':
			return 0, false, false
		default:
			ascii = false
		}
	}
	return 0, false, false
}

// text reads a string.
func (d *document) text() (string, bool) {
	end, literal, ok := d.span()
	if !ok {
		return "", false
	}
	raw := d.data[d.at+1 : end]
	d.at = end + 1
	if literal {
		return string(raw), true
	}
	b := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c != '\\' {
			b = append(b, c)
			continue
		}
		i++ // span has seen to it that there is more
		switch c = raw[i]; c {
		case '"', '\\', '/':
			b = append(b, c)
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			r, ok := codePoint(raw[i+1:])
			if !ok {
				return "", false
			}
			b = utf8.AppendRune(b, r)
			i += 4
		default:
			return "", false
		}
	}
	return string(b), true
}

// codePoint reads four hexadecimal digits that are no half of a pair.
func codePoint(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return r, r < 0xd800 || r > 0xdfff
}

// integer reads a number that is written as an integer.
func (d *document) integer() (int64, bool) {
	d.next()
	begin := d.at
	negative := d.at < len(d.data) && d.data[d.at] == '-'
	if negative {
		d.at++
	}
	first := d.at
	var n uint64
	for ; d.at < len(d.data); d.at++ {
		c := d.data[d.at]
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + uint64(c-'0')
	}
	digits := d.at - first
	if digits == 0 || digits > 18 || digits > 1 && d.data[first] == '0' || d.fraction() {
		d.at = begin
		return 0, false
	}
	if negative {
		return -int64(n), n <= math.MaxInt64
	}
	return int64(n), n <= math.MaxInt64
}

// fraction says whether what was read is only the beginning of a number.
func (d *document) fraction() bool {
	if d.at == len(d.data) {
		return false
	}
	switch d.data[d.at] {
	case '.', 'e', 'E':
		return true
	}
	return false
}

// raw reads any value and returns how it is written.
func (d *document) raw(depth int) ([]byte, bool) {
	if depth > maxDepth {
		return nil, false
	}
	c := d.next()
	begin := d.at
	ok := false
	switch c {
	case '"':
		_, ok = d.text()
	case '{':
		ok = d.members(func() bool {
			if _, ok := d.text(); !ok || !d.colon() {
				return false
			}
			_, ok := d.raw(depth + 1)
			return ok
		})
	case '[':
		ok = d.elements(depth)
	case 't':
		ok = d.word("true")
	case 'f':
		ok = d.word("false")
	case 'n':
		ok = d.word("null")
	default:
		ok = d.number()
	}
	return d.data[begin:d.at], ok
}

func (d *document) elements(depth int) bool {
	if !d.enter() {
		return false
	}
	if d.next() == ']' {
		return d.leave()
	}
	for {
		if _, ok := d.raw(depth + 1); !ok {
			return false
		}
		switch d.next() {
		case ',':
			d.at++
		case ']':
			return d.leave()
		default:
			return false
		}
	}
}

// number skips a number: an integer, a fraction, an exponent.
func (d *document) number() bool {
	digits := func() int {
		begin := d.at
		for d.at < len(d.data) && d.data[d.at] >= '0' && d.data[d.at] <= '9' {
			d.at++
		}
		return d.at - begin
	}
	is := func(letters string) bool {
		if d.at == len(d.data) {
			return false
		}
		for i := range len(letters) {
			if d.data[d.at] == letters[i] {
				d.at++
				return true
			}
		}
		return false
	}
	is("-")
	begin := d.at
	if n := digits(); n == 0 || n > 1 && d.data[begin] == '0' {
		return false
	}
	if is(".") && digits() == 0 {
		return false
	}
	if is("eE") {
		is("+-")
		return digits() > 0
	}
	return true
}
