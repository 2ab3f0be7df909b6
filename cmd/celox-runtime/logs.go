package main

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"time"
)

const (
	// maxLogLineBytes is where CRI splits a line into partial ones.
	maxLogLineBytes = 16 << 10
	logFileMode     = 0o640
)

// criLog writes the log file of a container in the format of CRI: time,
// stream, "F" for a whole line or "P" for a part, and the text.
type criLog struct {
	mu   sync.Mutex
	path string
	// file, and whether a failure to write has been reported; guarded by mu.
	file   *os.File
	failed bool
	warn   func(error)
}

// openCRILog opens the log at path; an empty path discards everything.
func openCRILog(path string, warn func(error)) (*criLog, error) {
	l := &criLog{path: path, warn: warn}
	if path == "" {
		return l, nil
	}
	f, err := openLogFile(path)
	if err != nil {
		return nil, fmt.Errorf("opening the container's log: %w", err)
	}
	l.file = f
	return l, nil
}

func openLogFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, logFileMode)
}

// reopen switches to a new file at the same path, after a rotation. Nothing is
// written to the old file once the new one is there: who reads along goes from
// the one to the other then.
func (l *criLog) reopen() error {
	if l.path == "" {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := openLogFile(l.path)
	if err != nil {
		return err
	}
	if l.file != nil {
		_ = l.file.Close()
	}
	l.file, l.failed = f, false
	return nil
}

func (l *criLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}

// write appends entries that are formatted already. A full disk loses output
// but never stops the container.
func (l *criLog) write(entries []byte) {
	if len(entries) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return
	}
	if _, err := l.file.Write(entries); err != nil {
		if !l.failed {
			l.warn(fmt.Errorf("container output is lost: %w", err))
		}
		l.failed = true
		return
	}
	l.failed = false
}

// lines cuts one output stream of a container into log entries. The zero value
// with a name is ready.
type lines struct {
	stream string
	carry  []byte // the beginning of a line whose end has not come yet
}

// append adds the entries that data completes to dst.
func (s *lines) append(dst, data []byte, now time.Time) []byte {
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		room := maxLogLineBytes - len(s.carry)
		switch {
		case end >= 0 && end <= room:
			dst = s.entry(dst, now, 'F', data[:end])
			data = data[end+1:]
		case len(data) > room:
			dst = s.entry(dst, now, 'P', data[:room])
			data = data[room:]
		default:
			s.carry = append(s.carry, data...)
			return dst
		}
	}
	return dst
}

// flush adds what is left without a newline, as a part: nobody may read a
// newline that was not written.
func (s *lines) flush(dst []byte, now time.Time) []byte {
	if len(s.carry) == 0 {
		return dst
	}
	return s.entry(dst, now, 'P', nil)
}

func (s *lines) entry(dst []byte, now time.Time, tag byte, rest []byte) []byte {
	dst = now.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, ' ')
	dst = append(dst, s.stream...)
	dst = append(dst, ' ', tag, ' ')
	dst = append(dst, s.carry...)
	dst = append(dst, rest...)
	s.carry = nil
	return append(dst, '\n')
}
