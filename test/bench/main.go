package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/celox/celox/test/e2e/machine"
)

// scenario is one way of using a cluster, of which figures are taken.
type scenario struct {
	name   string
	method string // how the figures come about, for who reads them
	run    func(context.Context, *bench) error
}

func scenarios() []scenario {
	return []scenario{
		{"cold-start", coldStartMethod, coldStart},
		{"idle", idleMethod, idle},
		{"pod-start", podStartMethod, podStart},
		{"pod-burst", podBurstMethod, podBurst},
		{"requests", requestsMethod, requests},
		{"list", listMethod, list},
		{"pages", pagesMethod, pages},
		{"big-lists", bigListsMethod, bigListMemory},
		{"watch-fan-out", watchMethod, watchFanOut},
		{"watchers", watchersMethod, watchersScenario},
		{"customs", customsMethod, customs},
		{"definitions", definitionsMethod, definitions},
		{"documents", documentsMethod, preparedDocuments},
		{"scheduling", schedulingMethod, scheduling},
		{"growth", growthMethod, growth},
		{"control-plane", controlPlaneMethod, controlPlane},
		{"roll", rollMethod, roll},
		{"dns", dnsMethod, dnsFigures},
		{"services", servicesMethod, services},
		{"podnetwork", podNetworkMethod, podNetwork},
		{"join", joinMethod, joining},
		{"throughput", throughputMethod, throughput},
		{"ingress", ingressMethod, ingressScenario},
		{"binary", binaryMethod, binary},
	}
}

// options are the flags.
type options struct {
	runs     int           // cold starts
	idle     time.Duration // how long the idle cluster is looked at
	pods     int           // pods of pod-start
	requests int           // objects of requests
	nodes    int           // nodes of the simulations; 0 is as many as upstream's workloads have
	svg      string        // where to draw growth; "" is nowhere
	against  string        // the binary to compare with; "" is none
	turns    int           // of a comparison
}

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	var opt options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, "Measure the celox that CELOX_BIN names and print its figures. Root; an otherwise idle machine.\n\n"+
			"usage: go run ./test/bench [flags]\n\nflags:\n")
		fs.PrintDefaults()
		fmt.Fprint(stderr, "\nscenarios:\n")
		for _, s := range scenarios() {
			fmt.Fprintf(stderr, "  %-14s%s\n", s.name, s.method)
		}
		fmt.Fprint(stderr, "\nwith -against, two binaries take turns at:")
		for _, c := range comparisons() {
			fmt.Fprint(stderr, " ", c.name)
		}
		fmt.Fprint(stderr, "\n\nexample: CELOX_BIN=$PWD/bin/celox go run ./test/bench -against /tmp/celox.before -run '^watch-fan-out$'\n")
	}
	fs.IntVar(&opt.runs, "runs", 5, "cold starts to take the median of")
	fs.DurationVar(&opt.idle, "idle", time.Minute, "how long to look at the idle cluster; the figure in the docs is of 10m")
	fs.IntVar(&opt.pods, "pods", 100, "pods that pod-start starts one after another")
	fs.IntVar(&opt.requests, "n", 4000, "objects of the scenario requests")
	fs.IntVar(&opt.nodes, "nodes", 0, "nodes of scheduling, growth, control-plane and roll (default: 5000 as upstream's workloads have, 1000 and 5000, and 1000)")
	fs.StringVar(&opt.svg, "svg", "", "file to draw the curves of growth into")
	fs.StringVar(&opt.against, "against", "", "another celox, with which the one that CELOX_BIN names takes turns (see below)")
	fs.IntVar(&opt.turns, "turns", 10, "turns of each with -against")
	pattern := fs.String("run", "", "run only the scenarios whose name matches this regular expression")
	format := fs.String("o", "text", "output: text or json")
	listGo := fs.Bool("list-go", false, "print the commands of the packages' own benchmarks (time and allocations of the hot paths) and end")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case fs.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case *format != "text" && *format != "json":
		return fmt.Errorf("-o is text or json, not %q", *format)
	case opt.runs < 1 || opt.pods < 1 || opt.requests < clients || opt.idle <= 0 || opt.nodes < 0 || opt.turns < 1:
		return fmt.Errorf("-runs, -pods, -turns and -idle must be positive, -n at least %d", clients)
	}
	if *listGo {
		return listBenchmarks(stdout)
	}
	re, err := regexp.Compile(*pattern)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	all := scenarios()
	if opt.against != "" {
		if _, err := exec.LookPath(opt.against); err != nil {
			return fmt.Errorf("-against: %w", err)
		}
		all = nil
		for _, c := range comparisons() {
			all = append(all, scenario{c.name, "two binaries in turns; the other is " + opt.against, func(ctx context.Context, b *bench) error { return b.against(ctx, c) }})
		}
	}
	var chosen []scenario
	var names []string
	for _, s := range all {
		names = append(names, s.name)
		if re.MatchString(s.name) {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("no scenario matches -run %q; there are %s", *pattern, strings.Join(names, ", "))
	}
	bin, err := machine.Binary()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{opt: opt, bin: bin, out: newReport(stdout, *format == "json"), progress: stderr}
	if err := b.out.begin(); err != nil {
		return err
	}
	var errs []error
	for _, s := range chosen {
		if ctx.Err() != nil {
			break
		}
		b.out.scenario(s)
		if err := s.run(ctx, b); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	return errors.Join(append(errs, b.out.end(), context.Cause(ctx))...)
}

// bench is one run of the program.
type bench struct {
	opt      options
	bin      string
	out      *report
	progress io.Writer
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.progress, "# "+format+"\n", args...) }

// stage is a machine with a server, and a way to account for what it uses.
type stage struct {
	*machine.Machine
	cluster cluster
	client  *client
}

// onStage starts a server with the given arguments on a new machine, lets f use it, and removes it. What else went on on this machine
// meanwhile is reported, because it spoils figures in wall-clock time.
func (b *bench) onStage(name string, f func(*stage) error, args ...string) error {
	return b.onStageOf(b.bin, name, f, args...)
}

// onStageOf is onStage with another binary.
func (b *bench) onStageOf(bin, name string, f func(*stage) error, args ...string) (err error) {
	m, err := machine.NewOf(bin, name)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			b.say("the server said:\n%s", m.Output())
		}
		err = errors.Join(err, m.Remove())
	}()
	b.say("%s: starting a server", name)
	if err := m.Start(args...); err != nil {
		return err
	}
	s := &stage{Machine: m, cluster: cluster{pid: m.Pid(), dataDir: m.DataDir}}
	if s.client, err = newClient(m, connections); err != nil {
		return err
	}
	defer s.client.close()
	noise, err := beginNoise(s.cluster)
	if err != nil {
		return err
	}
	if err := f(s); err != nil {
		return err
	}
	percent, err := noise.percent(s.cluster)
	b.out.noise(percent)
	return err
}
