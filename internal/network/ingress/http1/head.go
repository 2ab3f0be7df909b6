package http1

import (
	"bytes"
	"errors"
)

// What is wrong with a message.
var (
	ErrIncomplete = errors.New("the head is not complete yet")
	ErrLine       = errors.New("the first line is malformed")
	ErrVersion    = errors.New("the version is not supported")
	ErrBareLF     = errors.New("a line ends without a carriage return")
	ErrFold       = errors.New("a field is folded")
	ErrField      = errors.New("a field is malformed")
	ErrTooMany    = errors.New("there are too many fields")
	ErrFraming    = errors.New("the length of the body is ambiguous")
	ErrCoding     = errors.New("the transfer coding is not supported")
	ErrHost       = errors.New("the host is missing or given twice")
	ErrChunk      = errors.New("a chunk is malformed")
	ErrTrailer    = errors.New("the trailer is too long")
	errNotAllRoom = errors.New("the buffer is full")
	crlf          = []byte("\r\n")
	chunkedCoding = []byte("chunked")
)

// Kind is what a field is to a proxy.
type Kind uint8

// Kinds of fields.
const (
	Other Kind = iota
	Host
	Connection
	ContentLength
	TransferEncoding
	Upgrade
	Expect
	Hop     // others that are only for the next hop
	Managed // what proxies say of clients: X-Forwarded-For and its like
	Alias   // a name that a backend may take for another: with underscores, or Proxy
)

// Field is a line of a head.
type Field struct {
	Name, Value []byte
	Kind        Kind
}

// Head is the head of a message. Its parts belong to the buffer that it was parsed from.
type Head struct {
	// Of a request.
	Method, Target []byte
	// Of an answer.
	Code   int
	Reason []byte
	// Minor is the x of HTTP/1.x.
	Minor  int
	Fields []Field

	// Length is that of the body as the field says; -1 is that none does.
	Length int64
	// Chunked says that the body is in chunks.
	Chunked bool
	// HostValue is the Host field of a request; nil is none.
	HostValue []byte
	// Close and KeepAlive are the words of the Connection field, and Upgrades that it says upgrade.
	Close, KeepAlive, Upgrades bool
	// UpgradeTo is the Upgrade field.
	UpgradeTo []byte
	// Continue says that who sends waits for 100 before the body.
	Continue bool
}

// End finds the end of a head: how long it is with its empty line; 0 is that it is not there yet. From is how much was looked at before.
func End(b []byte, from int) int {
	for i := max(from-3, 0); ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return 0
		}
		i += n + 1
		if i < len(b) && b[i] == '\n' {
			return i + 1
		}
		if i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n' {
			return i + 2
		}
	}
}

// ParseRequest reads the head of a request, which End has found. Empty lines before it must have been skipped. Most is how many fields there may be.
func (h *Head) ParseRequest(b []byte, most int) error {
	h.reset()
	line, rest, err := nextLine(b, true)
	if err != nil {
		return err
	}
	sp := bytes.IndexByte(line, ' ')
	if sp <= 0 {
		return ErrLine
	}
	h.Method = line[:sp]
	if !token(h.Method) {
		return ErrLine
	}
	line = line[sp+1:]
	if sp = bytes.IndexByte(line, ' '); sp <= 0 {
		return ErrLine
	}
	h.Target = line[:sp]
	for _, c := range h.Target {
		if c <= ' ' || c >= 0x7f {
			return ErrLine
		}
	}
	if h.Minor, err = version(line[sp+1:]); err != nil {
		return err
	}
	if err := h.fields(rest, most, true); err != nil {
		return err
	}
	hosts := 0
	for i := range h.Fields {
		if h.Fields[i].Kind == Host {
			hosts++
		}
	}
	if hosts > 1 || hosts == 0 && h.Minor > 0 {
		return ErrHost
	}
	if h.Chunked && (h.Length >= 0 || h.Minor == 0) {
		return ErrFraming
	}
	return nil
}

// ParseResponse reads the head of an answer.
func (h *Head) ParseResponse(b []byte, most int) error {
	h.reset()
	line, rest, err := nextLine(b, false)
	if err != nil {
		return err
	}
	if len(line) < 12 || line[8] != ' ' {
		return ErrLine
	}
	if h.Minor, err = version(line[:8]); err != nil {
		return err
	}
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return ErrLine
		}
		h.Code = h.Code*10 + int(c-'0')
	}
	if h.Code < 100 || h.Code > 599 || len(line) > 12 && line[12] != ' ' {
		return ErrLine
	}
	if len(line) > 13 {
		h.Reason = line[13:]
		if !clean(h.Reason) {
			return ErrLine
		}
	}
	if err := h.fields(rest, most, false); err != nil {
		return err
	}
	if h.Chunked && (h.Length >= 0 || h.Minor == 0) {
		return ErrFraming
	}
	return nil
}

func (h *Head) reset() { *h = Head{Fields: h.Fields[:0], Length: -1} }

// Get returns the first field of a name, as text.
func (h *Head) Get(name string) string {
	for i := range h.Fields {
		if f := &h.Fields[i]; len(f.Name) == len(name) && foldString(f.Name, name) {
			return string(f.Value)
		}
	}
	return ""
}

func version(b []byte) (int, error) {
	if len(b) != 8 || string(b[:5]) != "HTTP/" || b[6] != '.' || b[5] < '0' || b[5] > '9' || b[7] < '0' || b[7] > '9' {
		return 0, ErrLine
	}
	if b[5] != '1' || b[7] > '1' {
		return 0, ErrVersion
	}
	return int(b[7] - '0'), nil
}

// nextLine cuts off a line.
func nextLine(b []byte, strict bool) (line, rest []byte, err error) {
	n := bytes.IndexByte(b, '\n')
	switch {
	case n < 0:
		return nil, nil, ErrIncomplete
	case n > 0 && b[n-1] == '\r':
		return b[:n-1], b[n+1:], nil
	case strict:
		return nil, nil, ErrBareLF
	}
	return b[:n], b[n+1:], nil
}

func (h *Head) fields(b []byte, most int, strict bool) error {
	for {
		line, rest, err := nextLine(b, strict)
		if err != nil {
			return err
		}
		b = rest
		if len(line) == 0 {
			return nil
		}
		if line[0] == ' ' || line[0] == '\t' {
			return ErrFold
		}
		if len(h.Fields) >= most {
			return ErrTooMany
		}
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 {
			return ErrField
		}
		f := Field{Name: line[:colon], Value: trim(line[colon+1:])}
		if !token(f.Name) || !clean(f.Value) {
			return ErrField
		}
		f.Kind = kindOf(f.Name)
		h.Fields = append(h.Fields, f)
		if f.Kind == Other {
			continue
		}
		if err := h.note(&f); err != nil {
			return err
		}
	}
}

// note takes up what a field says of the message itself.
func (h *Head) note(f *Field) error {
	switch f.Kind {
	case Host:
		h.HostValue = f.Value
	case ContentLength:
		n, err := length(f.Value)
		if err != nil || h.Length >= 0 {
			return ErrFraming
		}
		h.Length = n
	case TransferEncoding:
		if h.Chunked {
			return ErrFraming
		}
		if !fold(f.Value, chunkedCoding) {
			return ErrCoding
		}
		h.Chunked = true
	case Connection:
		for v := f.Value; len(v) > 0; {
			word := v
			if i := bytes.IndexByte(v, ','); i >= 0 {
				word, v = v[:i], v[i+1:]
			} else {
				v = nil
			}
			switch word = trim(word); {
			case foldString(word, "close"):
				h.Close = true
			case foldString(word, "keep-alive"):
				h.KeepAlive = true
			case foldString(word, "upgrade"):
				h.Upgrades = true
			}
		}
	case Upgrade:
		h.UpgradeTo = f.Value
	case Expect:
		if !foldString(f.Value, "100-continue") {
			return ErrField
		}
		h.Continue = true
	}
	return nil
}

// Named says whether the Connection fields name a field as one for the next hop only.
func (h *Head) Named(name []byte) bool {
	for i := range h.Fields {
		if h.Fields[i].Kind != Connection {
			continue
		}
		for v := h.Fields[i].Value; len(v) > 0; {
			word := v
			if i := bytes.IndexByte(v, ','); i >= 0 {
				word, v = v[:i], v[i+1:]
			} else {
				v = nil
			}
			if fold(trim(word), name) {
				return true
			}
		}
	}
	return false
}

// Names says whether a Connection field names more than the words that it is for.
func (h *Head) Names() bool {
	for i := range h.Fields {
		if f := &h.Fields[i]; f.Kind == Connection && !foldString(f.Value, "keep-alive") && !foldString(f.Value, "close") {
			return true
		}
	}
	return false
}

// Reusable says whether another message may follow on the connection.
func (h *Head) Reusable() bool { return !h.Close && (h.Minor > 0 || h.KeepAlive) }

// length reads a Content-Length: digits, and no more of them than a number has.
func length(b []byte) (int64, error) {
	if len(b) == 0 || len(b) > 18 {
		return 0, ErrFraming
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, ErrFraming
		}
		n = n*10 + int64(c-'0')
	}
	return n, nil
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// tokens are the characters of names (RFC 9110, 5.6.2).
var tokens = func() (t [256]bool) {
	for c := range 256 {
		t[c] = c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c != 0 && bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0
	}
	return t
}()

// controls are the characters that values must not have.
var controls = func() (t [256]bool) {
	for c := range 0x20 {
		t[c] = c != '\t'
	}
	t[0x7f] = true
	return t
}()

func token(b []byte) bool {
	for _, c := range b {
		if !tokens[c] {
			return false
		}
	}
	return len(b) > 0
}

func clean(b []byte) bool {
	for _, c := range b {
		if controls[c] {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}

func fold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func foldString(a []byte, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

// kindOf classifies a name. The length tells most apart.
func kindOf(n []byte) Kind {
	switch len(n) {
	case 2:
		if foldString(n, "te") {
			return Hop
		}
	case 4:
		if foldString(n, "host") {
			return Host
		}
	case 5:
		if foldString(n, "proxy") {
			return Alias // CGI would make HTTP_PROXY of it
		}
	case 6:
		if foldString(n, "expect") {
			return Expect
		}
	case 7:
		if foldString(n, "upgrade") {
			return Upgrade
		}
		if foldString(n, "trailer") {
			return Hop
		}
	case 9:
		return same(n, "forwarded", Managed, "x-real-ip")
	case 10:
		if foldString(n, "connection") {
			return Connection
		}
		return same(n, "keep-alive", Hop, "")
	case 14:
		return same(n, "content-length", ContentLength, "")
	case 15:
		return same(n, "x-forwarded-for", Managed, "")
	case 16:
		if foldString(n, "proxy-connection") {
			return Hop
		}
		return same(n, "x-forwarded-host", Managed, "x-forwarded-port")
	case 17:
		if n[0]|0x20 == 'x' {
			return same(n, "x-forwarded-proto", Managed, "")
		}
		return same(n, "transfer-encoding", TransferEncoding, "")
	case 18:
		return same(n, "proxy-authenticate", Hop, "")
	case 19:
		return same(n, "proxy-authorization", Hop, "")
	}
	return Other
}

// same compares with one or two names; with underscores instead of dashes it is an alias.
func same(n []byte, name string, k Kind, second string) Kind {
	exact := true
	match := func(want string) bool {
		if len(want) != len(n) {
			return false
		}
		exact = true
		for i := range n {
			c := lower(n[i])
			if c == '_' && want[i] == '-' {
				exact = false
				continue
			}
			if c != want[i] {
				return false
			}
		}
		return true
	}
	if !match(name) && !match(second) {
		return Other
	}
	if !exact {
		return Alias
	}
	return k
}
