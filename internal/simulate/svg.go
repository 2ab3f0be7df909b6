package simulate

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// Sizes of the picture, in pixels.
const (
	pictureWidth = 960
	panelHeight  = 150
	panelGap     = 50
	marginLeft   = 80
	marginRight  = 20
	marginTop    = 70
)

// panel is one curve over time.
type panel struct {
	title, unit, colour string
	value               func(Sample) float64
}

// SVG draws the report: throughput, pods, latency of requests and memory over time, with the operations as stripes.
func (r *Report) SVG(w io.Writer) error {
	panels := []panel{
		{"pods given a node", "pods/s", "#1b6ca8", func(s Sample) float64 { return float64(s.Scheduled) }},
		{"pods that run", "pods", "#2e8b57", func(s Sample) float64 { return float64(s.Running) }},
		{"requests, 99th percentile", "ms", "#c0392b", func(s Sample) float64 { return s.P99 }},
		{"resident memory", "MB", "#7d5ba6", func(s Sample) float64 { return float64(s.Resident) / 1e6 }},
	}
	end := max(r.Seconds, 1)
	width := float64(pictureWidth - marginLeft - marginRight)
	x := func(t float64) float64 { return marginLeft + t/end*width }
	height := marginTop + len(panels)*(panelHeight+panelGap)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", pictureWidth, height, pictureWidth, height)
	b.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	title := fmt.Sprintf("%s, %d nodes", r.Scenario, r.Nodes)
	if r.Scheduling.PodsPerSecond > 0 {
		title += fmt.Sprintf(": %.0f pods/s", r.Scheduling.PodsPerSecond)
	}
	fmt.Fprintf(&b, `<text x="%d" y="24" font-size="18">%s</text>`+"\n", marginLeft, html.EscapeString(title))
	fmt.Fprintf(&b, `<text x="%d" y="44" fill="#555">%s</text>`+"\n", marginLeft, html.EscapeString(r.Description))
	for k, p := range panels {
		top := float64(marginTop + k*(panelHeight+panelGap))
		bottom := top + panelHeight
		for i, ph := range r.Phases {
			fill := "#f4f4f4"
			if i%2 == 1 {
				fill = "#e8eef4"
			}
			left, right := x(ph.Start), x(min(ph.Start+ph.Seconds, end))
			fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s"><title>%s</title></rect>`+"\n", left, top, max(right-left, .5), panelHeight, fill,
				html.EscapeString(fmt.Sprintf("%s %s: %.1f s", ph.Operation, ph.What, ph.Seconds)))
			if k == 0 && right-left > 60 {
				fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" fill="#888" font-size="10">%s</text>`+"\n", left+3, top-3, html.EscapeString(ph.Operation))
			}
		}
		most := 0.0
		for _, s := range r.Series {
			most = max(most, p.value(s))
		}
		most = roundUp(most)
		y := func(v float64) float64 { return bottom - v/most*panelHeight }
		for _, part := range []float64{0, .5, 1} {
			fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ccc"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n",
				marginLeft, pictureWidth-marginRight, y(part*most), y(part*most), marginLeft-6, y(part*most)+4, number(part*most))
		}
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" fill="%s">%s (%s)</text>`+"\n", marginLeft+6, top+14, p.colour, html.EscapeString(p.title), p.unit)
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="1.5" points="`, p.colour)
		for _, s := range r.Series {
			fmt.Fprintf(&b, "%.1f,%.1f ", x(min(s.At, end)), y(p.value(s)))
		}
		b.WriteString("\"/>\n")
		for _, part := range []float64{0, .25, .5, .75, 1} {
			fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle" fill="#555">%s s</text>`+"\n", x(part*end), bottom+16, number(part*end))
		}
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// roundUp is the next number of the form 1, 2 or 5 with zeros.
func roundUp(v float64) float64 {
	if v <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if v <= m*unit {
			return m * unit
		}
	}
	return 10 * unit
}

func number(v float64) string {
	if v != math.Trunc(v) && v < 100 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}
