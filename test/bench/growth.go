package main

import (
	"cmp"
	"context"
	"fmt"
	"html"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/celox/celox/internal/simulate"
)

// curve is how one figure grows with the cluster.
type curve struct {
	workload, figure string
	points           []point // in the order of sizes
}

type point struct {
	nodes int
	value float64
}

// exponent is the slope of a curve where both axes are logarithmic, fitted to all points: 0 doesn't grow at all, 1 grows as the cluster does.
func (c *curve) exponent() float64 {
	var n, sx, sy, sxx, sxy float64
	for _, p := range c.points {
		if p.value <= 0 {
			continue
		}
		x, y := math.Log(float64(p.nodes)), math.Log(p.value)
		n, sx, sy, sxx, sxy = n+1, sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	if d := n*sxx - sx*sx; n > 1 && d > 0 {
		return (n*sxy - sx*sy) / d
	}
	return 0
}

// figuresOf are those of a report that may grow: all per pod or in total such that a linear system keeps the first two, and the others grow with it.
func figuresOf(r *simulate.Report) map[string]float64 {
	out := map[string]float64{"CPU per pod, ms": r.Scheduling.CPUPerPod, "memory, MB": float64(r.PeakResident) / 1e6, "pod has a node p99, ms": r.PodBinding.P99}
	if r.PodStartup.Count > 0 {
		out["pod ready p99, ms"] = r.PodStartup.P99
	}
	worst := 0.0
	for _, q := range r.Requests {
		if q.Count >= 100 {
			worst = max(worst, q.P99)
		}
	}
	out["requests p99, ms"] = worst
	return out
}

// sizes are those that growth looks at.
func (b *bench) sizes() []int {
	large := b.opt.nodes
	if large == 0 {
		large = 5000
	}
	out := []int{max(large/10, 1), max(large/5, 1), max(2*large/5, 1), large}
	return slices.Compact(out)
}

func growth(ctx context.Context, b *bench) error {
	all := map[string]*curve{}
	names := []string{"ControlPlane"}
	for _, w := range workloads() {
		if w.name != "SchedulingBasicLarge" { // the same but for its size
			names = append(names, w.name)
		}
	}
	for _, name := range names {
		for _, n := range b.sizes() {
			r, err := b.simulation(ctx, name, n)
			if err != nil {
				return err
			}
			for figure, v := range figuresOf(r) {
				key := name + "\x00" + figure
				if all[key] == nil {
					all[key] = &curve{workload: name, figure: figure}
				}
				all[key].points = append(all[key].points, point{n, v})
			}
		}
	}
	curves := make([]*curve, 0, len(all))
	for _, c := range all {
		curves = append(curves, c)
	}
	slices.SortFunc(curves, func(a, b *curve) int {
		return cmp.Or(cmp.Compare(a.figure, b.figure), cmp.Compare(slices.Index(names, a.workload), slices.Index(names, b.workload)))
	})
	for _, c := range curves {
		var words []string
		for _, p := range c.points {
			words = append(words, fmt.Sprintf("%d: %s", p.nodes, number(p.value)))
		}
		target := 1.1 // as the cluster grows, with some noise
		if strings.Contains(c.figure, "per pod") {
			target = 0.1
		}
		b.out.figure(figure{Name: c.workload + " " + c.figure, Value: c.exponent(), Unit: "exponent", Target: target, Detail: strings.Join(words, ", ")})
	}
	if b.opt.svg == "" {
		return nil
	}
	f, err := os.Create(b.opt.svg)
	if err != nil {
		return err
	}
	if err := drawGrowth(f, curves, b.sizes()); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// Sizes of the picture, in pixels.
const (
	growthWidth  = 1000
	growthHeight = 300
	growthLeft   = 70
	growthKeys   = 330 // the width of the names of curves
	growthGap    = 60
)

// palette tells the curves of one panel from each other.
var palette = [...]string{"#1b6ca8", "#c0392b", "#2e8b57", "#7d5ba6", "#d68910", "#117a65", "#922b21", "#5d6d7e", "#b7950b", "#2874a6", "#a04000", "#6c3483"}

// drawGrowth draws a panel for each figure, in which a curve that grows as the cluster does rises as the thin lines do.
func drawGrowth(w io.Writer, curves []*curve, sizes []int) error {
	var figures []string
	for _, c := range curves {
		if !slices.Contains(figures, c.figure) {
			figures = append(figures, c.figure)
		}
	}
	var b strings.Builder
	height := 50 + len(figures)*(growthHeight+growthGap)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12">`+"\n", growthWidth, height)
	b.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	fmt.Fprintf(&b, `<text x="%d" y="26" font-size="18">from %d to %d nodes; both axes are logarithmic, thin lines grow as the cluster does</text>`+"\n", growthLeft, sizes[0], sizes[len(sizes)-1])
	right := float64(growthWidth - growthKeys)
	spanX := max(math.Log(float64(sizes[len(sizes)-1])/float64(sizes[0])), 1e-9)
	x := func(n int) float64 {
		return growthLeft + math.Log(float64(n)/float64(sizes[0]))/spanX*(right-growthLeft)
	}
	for k, name := range figures {
		top := float64(50 + k*(growthHeight+growthGap))
		least, most := math.Inf(1), 0.0
		for _, c := range curves {
			for _, p := range c.points {
				if c.figure == name && p.value > 0 {
					least, most = min(least, p.value), max(most, p.value)
				}
			}
		}
		if most == 0 {
			continue
		}
		low, high := math.Log(least)-.2, math.Log(most)+.2
		y := func(v float64) float64 { return top + (high-math.Log(v))/(high-low)*growthHeight }
		fmt.Fprintf(&b, `<rect x="%d" y="%.1f" width="%.1f" height="%d" fill="#f7f7f7"/><text x="%d" y="%.1f" font-weight="bold">%s</text>`+"\n",
			growthLeft, top, right-growthLeft, growthHeight, growthLeft, top-6, html.EscapeString(name))
		fmt.Fprintf(&b, `<clipPath id="p%d"><rect x="%d" y="%.1f" width="%.1f" height="%d"/></clipPath>`+"\n", k, growthLeft, top, right-growthLeft, growthHeight)
		for e := math.Floor((low - spanX) / math.Ln2); e < high/math.Ln2; e++ { // lines of slope 1, a factor of two apart
			v := math.Exp2(e)
			fmt.Fprintf(&b, `<line clip-path="url(#p%d)" x1="%d" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#ddd"/>`+"\n", k, growthLeft, y(v), right, y(v*math.Exp(spanX)))
		}
		for _, v := range []float64{least, math.Sqrt(least * most), most} {
			fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", growthLeft-6, y(v)+4, number(v))
		}
		for _, n := range sizes {
			fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle" fill="#555">%d</text>`+"\n", x(n), top+growthHeight+16, n)
		}
		i := 0
		for _, c := range curves {
			if c.figure != name {
				continue
			}
			colour := palette[i%len(palette)]
			fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="1.5" points="`, colour)
			for _, p := range c.points {
				if p.value > 0 {
					fmt.Fprintf(&b, "%.1f,%.1f ", x(p.nodes), y(p.value))
				}
			}
			fmt.Fprintf(&b, `"/><text x="%.1f" y="%.1f" fill="%s">%s (exponent %.2f)</text>`+"\n", right+8, top+14+float64(i)*18, colour, html.EscapeString(c.workload), c.exponent())
			i++
		}
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}
