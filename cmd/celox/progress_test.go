package main

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/celox/celox/internal/runtime/images"
)

// steps are two layers, of which one was there already.
var steps = []images.Progress{
	{Stage: images.StageResolving},
	{Stage: images.StageWaiting, Layer: "sha256:aaaaaaaaaaaaaaaa", Total: 3_000_000},
	{Stage: images.StageWaiting, Layer: "sha256:bbbbbbbbbbbbbbbb", Total: 1_000_000},
	{Stage: images.StageExists, Layer: "sha256:bbbbbbbbbbbbbbbb", Current: 1_000_000, Total: 1_000_000},
	{Stage: images.StagePulling, Layer: "sha256:aaaaaaaaaaaaaaaa", Current: 1_000_000, Total: 3_000_000},
	{Stage: images.StageDone, Layer: "sha256:aaaaaaaaaaaaaaaa", Current: 3_000_000, Total: 3_000_000},
	{Stage: images.StageDone},
}

func TestProgress(t *testing.T) {
	const up = clearLine
	for _, tt := range []struct {
		name  string
		width int
		quiet bool
		ok    bool
		want  string
	}{
		{"plain", 0, false, true, "layer bbbbbbbbbbbb exists, 1 MB\nlayer aaaaaaaaaaaa done, 3 MB\n"},
		{"plain for a machine", 0, true, true, ""},
		{"terminal", 50, false, true, up + "resolving" + up + "[          ] 0 B / 3 MB" + up + "[          ] 0 B / 4 MB" + up + "[==        ] 1 MB / 4 MB" +
			up + "[=====     ] 2 MB / 4 MB" + up + "[==========] 4 MB / 4 MB" + up + "[==========] 4 MB / 4 MB" + up + "[==========] 4 MB in 7s\n"},
		{"terminal, failed", 50, false, false, up + "resolving" + up + "[          ] 0 B / 3 MB" + up + "[          ] 0 B / 4 MB" + up + "[==        ] 1 MB / 4 MB" +
			up + "[=====     ] 2 MB / 4 MB" + up + "[==========] 4 MB / 4 MB" + up + "[==========] 4 MB / 4 MB" + up},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				p := startProgress(&out, tt.width, tt.quiet)
				for _, s := range steps {
					p.show(s)
					time.Sleep(time.Second)
				}
				p.end(tt.ok)
				if got := out.String(); got != tt.want {
					t.Errorf("got\n%q, want\n%q", got, tt.want)
				}
			})
		})
	}
}

func TestNoTerminal(t *testing.T) {
	p := newProgress(&bytes.Buffer{}, false)
	p.end(true)
	if p.width != 0 {
		t.Error("a buffer is no terminal")
	}
}

// TestProgressIsNotDrawnTooOften: a registry that sends fast is no reason to draw fast.
func TestProgressIsNotDrawnTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := startProgress(&out, 80, false)
		for i := range int64(1000) {
			p.show(images.Progress{Stage: images.StagePulling, Layer: "sha256:a", Current: i, Total: 1000})
			time.Sleep(999 * time.Microsecond)
		}
		p.end(true)
		if n := bytes.Count(out.Bytes(), []byte(clearLine)); n != 10 {
			t.Errorf("drawn %d times in a second, want 9 and the end", n)
		}
	})
}
