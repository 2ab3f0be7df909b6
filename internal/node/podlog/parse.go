package podlog

import (
	"bytes"
	"errors"
	"time"
)

// Line is one parsed line; its slices point into the input.
type Line struct {
	Time   time.Time
	Stream string // "stdout" or "stderr"
	Part   bool   // the line goes on with the next one of the stream
	Text   []byte // ends with a newline unless Part
}

// errFormat says that a line isn't in CRI's format.
var errFormat = errors.New("not a CRI log line")

// Parse reads one line as it stands in the file, with or without its newline.
func Parse(line []byte) (Line, error) {
	var l Line
	stamp, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return l, errFormat
	}
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return l, errFormat
	}
	l.Time = t
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return l, errFormat
	}
	switch string(stream) {
	case "stdout", "stderr":
		l.Stream = string(stream)
	default:
		return l, errFormat
	}
	tag, text, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return l, errFormat
	}
	// Tags are separated by colons; the first one counts.
	first, _, _ := bytes.Cut(tag, []byte{':'})
	switch string(first) {
	case "P":
		l.Part = true
		text = bytes.TrimSuffix(text, []byte{'\n'})
	case "F":
	default:
		return l, errFormat
	}
	l.Text = text
	return l, nil
}
