package main

import (
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 5, time.UTC)

const stamp = "2026-01-02T12:00:00.000000005Z "

func TestLines(t *testing.T) {
	full := strings.Repeat("y", maxLogLineBytes)
	tests := []struct {
		name   string
		writes []string
		want   string
	}{
		{"one", []string{"a\n"}, stamp + "stdout F a\n"},
		{"split", []string{"a", "b\nc", "\n"}, stamp + "stdout F ab\n" + stamp + "stdout F c\n"},
		{"empty line", []string{"\n"}, stamp + "stdout F \n"},
		{"no newline", []string{"x"}, stamp + "stdout P x\n"},
		{"exactly full", []string{full + "\n"}, stamp + "stdout F " + full + "\n"},
		{"too long", []string{full, "z\n"}, stamp + "stdout P " + full + "\n" + stamp + "stdout F z\n"},
		{"nothing", nil, ""},
	}
	for _, tt := range tests {
		l := &lines{stream: "stdout"}
		var got []byte
		for _, w := range tt.writes {
			got = l.append(got, []byte(w), noon)
		}
		got = l.flush(got, noon)
		if string(got) != tt.want {
			t.Errorf("%s: %.200q, want %.200q", tt.name, got, tt.want)
		}
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("hello\nworld"), 3)
	f.Add([]byte("\n\n\n"), 1)
	f.Fuzz(func(t *testing.T, data []byte, step int) {
		if step <= 0 || len(data) > 1<<20 {
			return
		}
		l := &lines{stream: "stderr"}
		var out []byte
		for rest := data; len(rest) > 0; {
			n := min(step, len(rest))
			out = l.append(out, rest[:n], noon)
			rest = rest[n:]
		}
		out = l.flush(out, noon)
		var back strings.Builder
		for line := range strings.Lines(string(out)) {
			parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
			if len(parts) != 4 || parts[1] != "stderr" || len(parts[3]) > maxLogLineBytes {
				t.Fatalf("entry %q", line)
			}
			back.WriteString(parts[3])
			if parts[2] == "F" {
				back.WriteByte('\n')
			}
		}
		if back.String() != string(data) {
			t.Fatalf("%q came back as %q", data, back.String())
		}
	})
}

func TestCounter(t *testing.T) {
	text := []byte("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
	if n := counter(text, "oom_kill"); n != 3 {
		t.Errorf("%d", n)
	}
	if n := counter(text, "oom"); n != 0 {
		t.Errorf("%d", n)
	}
}

func TestValidID(t *testing.T) {
	for id, want := range map[string]bool{
		"abc-1_2.x": true, "": false, ".": false, "..": false, "a/b": false, ".hidden": false, "a b": false, strings.Repeat("a", 129): false, "é": false,
	} {
		if validID(id) != want {
			t.Errorf("%q", id)
		}
	}
}

func TestProgramMappings(t *testing.T) {
	maps := "00400000-00401000 r--p 00000000 fe:00 1 /x/celox-runtime\n00401000-00800000 r-xp 00001000 fe:00 1   /x/celox-runtime\n" +
		"00800000-00900000 rw-p 00001000 fe:00 1 /x/celox-runtime\n00a00000-00b00000 rw-p 00000000 00:00 0\nbad\n"
	got := programMappings(maps, "/x/celox-runtime")
	if len(got) != 2 || got[1] != [2]uintptr{0x401000, 0x800000} {
		t.Errorf("%x", got)
	}
}
