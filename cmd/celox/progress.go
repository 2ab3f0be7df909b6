package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/celox/celox/internal/runtime/images"
)

// progress shows how an image comes in: on a terminal as one bar for all its layers, elsewhere as a line for each layer that is complete.
type progress struct {
	w     io.Writer
	width int // of the terminal in columns; 0 if there is none
	quiet bool
	begun time.Time

	mu     sync.Mutex // guards what follows
	layers map[string]images.Progress
	newest images.Progress
	drawn  bool // newest is on the terminal

	stop chan struct{}
	wg   sync.WaitGroup
}

// newProgress shows progress on w. Somebody who wants JSON wants no lines in between, but a bar does no harm. The end has to be told.
func newProgress(w io.Writer, json bool) *progress {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return startProgress(w, 0, json)
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		width = 80
	}
	return startProgress(w, width, json)
}

func startProgress(w io.Writer, width int, quiet bool) *progress {
	p := &progress{w: w, width: width, quiet: quiet, begun: time.Now(), layers: map[string]images.Progress{}, drawn: true, stop: make(chan struct{})}
	if width > 0 {
		p.wg.Go(p.draw)
	}
	return p
}

const (
	// redraw is how often the bar moves at most.
	redraw = 100 * time.Millisecond
	// clearLine goes to the begin of the line and empties it (ECMA-48, EL).
	clearLine = "\r\x1b[K"
	// The bar takes what the terminal has besides the words and figures, within bounds.
	barRoom, barLeast, barMost = 40, 10, 50
)

// draw keeps the bar up to date until the end.
func (p *progress) draw() {
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
		}
		p.mu.Lock()
		if !p.drawn {
			p.drawn = true
			_, _ = fmt.Fprint(p.w, clearLine+p.line(p.newest)) // who closes the terminal doesn't look at it
		}
		p.mu.Unlock()
	}
}

// show takes the next step in.
func (p *progress) show(s images.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.newest, p.drawn = s, false
	if s.Layer == "" {
		return
	}
	complete := s.Stage != p.layers[s.Layer].Stage && (s.Stage == images.StageDone || s.Stage == images.StageExists)
	p.layers[s.Layer] = s
	if complete && p.width == 0 && !p.quiet {
		_, _ = fmt.Fprintf(p.w, "layer %s %s, %s\n", shortID(s.Layer), s.Stage, size(s.Total)) // as above
	}
}

// line is the terminal's line after step s.
func (p *progress) line(s images.Progress) string {
	if len(p.layers) == 0 {
		if s.Current > 0 {
			return fmt.Sprintf("%s %s", s.Stage, size(s.Current))
		}
		return string(s.Stage)
	}
	current, total := p.sum()
	return fmt.Sprintf("%s %s / %s", p.bar(current, total), size(current), size(total))
}

func (p *progress) sum() (current, total int64) {
	for _, l := range p.layers {
		current += l.Current
		total += l.Total
	}
	return current, total
}

func (p *progress) bar(current, total int64) string {
	width := int64(min(max(p.width-barRoom, barLeast), barMost))
	filled := width
	if total > 0 {
		filled = max(0, min(width, width*current/total))
	}
	return "[" + strings.Repeat("=", int(filled)) + strings.Repeat(" ", int(width-filled)) + "]"
}

// end leaves the full bar with the total, or nothing if it failed: what is said of that comes instead.
func (p *progress) end(ok bool) {
	close(p.stop)
	p.wg.Wait()
	if p.width == 0 {
		return
	}
	text := clearLine
	if _, total := p.sum(); ok && len(p.layers) > 0 {
		text += fmt.Sprintf("%s %s in %s\n", p.bar(total, total), size(total), time.Since(p.begun).Round(redraw))
	}
	_, _ = fmt.Fprint(p.w, text) // as above
}
