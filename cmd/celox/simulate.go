package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/celox/celox/internal/client"
	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/cluster"
	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/simulate"
)

// simulateFlags are those of celox simulate.
type simulateFlags struct {
	nodes           int
	scenario        string
	output          string
	svg             string
	https           bool
	schedulerConfig string
	dir             string
	cpuProfile      string
	heapProfile     string
	logLevel        string
}

func newSimulate() *cobra.Command {
	var f simulateFlags
	cmd := &cobra.Command{
		Use:   "simulate --scenario NAME|FILE",
		Short: "Run a control plane with thousands of hollow nodes, and measure it",
		Long: `Run a control plane (API server, etcd, scheduler, controllers) with hollow nodes in this process, and measure it.

The cluster is made in a temporary directory, listens on a free port of the loopback interface and is gone afterwards; it needs no root. A scenario is a YAML file of
operations (createNodes, createPods, churn, failNodes, barrier, deletePods, createDeployment, scaleDeployment, ...) or the name of a built-in one:

  ` + strings.Join(simulate.Builtin(), "\n  ") + `

--nodes makes the cluster larger or smaller than the scenario says; counts like "2*nodes" follow.`,
		Example: `  celox simulate --scenario SchedulingBasic --nodes 500
  celox simulate --scenario ControlPlane --nodes 1000 --svg report.svg -o json > report.json
  celox simulate --scenario my.yaml --scheduler-config scheduler.yaml`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runSimulation(cmd.Context(), f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fs := cmd.Flags()
	fs.IntVar(&f.nodes, "nodes", 0, "number of nodes (default: as the scenario says)")
	fs.StringVar(&f.scenario, "scenario", "", "built-in scenario, or the name of a YAML file")
	fs.StringVarP(&f.output, "output", "o", "text", "text or json")
	fs.StringVar(&f.svg, "svg", "", "file to draw the report into")
	fs.BoolVar(&f.https, "https", false, "let hollow nodes and users speak to the API over TLS on the loopback interface, rather than by calls")
	fs.StringVar(&f.schedulerConfig, "scheduler-config", "", "KubeSchedulerConfiguration to use")
	fs.StringVar(&f.dir, "dir", "", "directory for the cluster's data, which is removed again (default: a temporary one)")
	fs.StringVar(&f.cpuProfile, "cpu-profile", "", "file to write a CPU profile of the whole simulation to, for go tool pprof")
	fs.StringVar(&f.heapProfile, "heap-profile", "", "file to write a profile of the memory in use at the end to, for go tool pprof")
	fs.StringVar(&f.logLevel, "log-level", "error", "debug, info, warn or error")
	return cmd
}

func runSimulation(ctx context.Context, f simulateFlags, out, progress io.Writer) (err error) {
	if f.output != "text" && f.output != "json" {
		return fmt.Errorf("--output: %q: use text or json", f.output)
	}
	if f.nodes < 0 || f.nodes > simulate.MaxNodes {
		return fmt.Errorf("--nodes: %d: use 1 to %d, or 0 for as many as the scenario says", f.nodes, simulate.MaxNodes)
	}
	s, err := scenario(f.scenario)
	if err != nil {
		return err
	}
	// Who has waited for a simulation does not want to hear then that there is no place for its report.
	for key, name := range map[string]string{"svg": f.svg, "heap-profile": f.heapProfile} {
		if name == "" {
			continue
		}
		if err := config.CheckPlace(name, false); err != nil {
			return fmt.Errorf("--%s: %w", key, err)
		}
	}
	say := func(format string, args ...any) {
		_, _ = fmt.Fprintf(progress, format+"\n", args...) // progress is for people; a closed terminal is no reason to stop
	}
	if f.cpuProfile != "" {
		file, err := os.Create(f.cpuProfile)
		if err != nil {
			return fmt.Errorf("--cpu-profile: %w", err)
		}
		if err := pprof.StartCPUProfile(file); err != nil {
			return fmt.Errorf("--cpu-profile: %w", err)
		}
		defer func() {
			pprof.StopCPUProfile()
			err = errors.Join(err, file.Close())
		}()
	}
	dir, err := os.MkdirTemp(f.dir, "celox-simulate-")
	if err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	run, stop, err := startSimulated(ctx, f, s, filepath.Join(dir, "data"), progress)
	if err != nil {
		return err
	}
	say("simulating %s", s.Name)
	run.Scenario, run.Nodes, run.Progress = s, f.nodes, say
	report, err := simulate.Run(ctx, run)
	if f.heapProfile != "" {
		err = errors.Join(err, writeHeap(f.heapProfile))
	}
	err = errors.Join(err, stop())
	if report == nil {
		return err
	}
	if f.svg != "" {
		err = errors.Join(err, writeSVG(f.svg, report))
	}
	if f.output == "json" {
		return errors.Join(err, report.JSON(out))
	}
	return errors.Join(err, report.Text(out))
}

// scenario finds a scenario by name, or else as a file.
func scenario(name string) (*simulate.Scenario, error) {
	if name == "" {
		return nil, fmt.Errorf("--scenario: name a file, or one of %s", strings.Join(simulate.Builtin(), ", "))
	}
	if !strings.ContainsAny(name, "/.") {
		s, err := simulate.Named(name)
		if err != nil {
			return nil, fmt.Errorf("--scenario: %w", err)
		}
		return s, nil
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("--scenario: %w", err)
	}
	s, err := simulate.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("--scenario: %s: %w", name, err)
	}
	if s.Name == "" {
		s.Name = strings.TrimSuffix(filepath.Base(name), filepath.Ext(name))
	}
	return s, nil
}

// served is a control plane that is ready.
type served struct {
	handler http.Handler
	pods    []client.Source
}

// startSimulated starts a control plane and returns how its API is reached, and what stops it.
func startSimulated(ctx context.Context, f simulateFlags, s *simulate.Scenario, dataDir string, progress io.Writer) (simulate.Config, func() error, error) {
	var none simulate.Config
	var cfg config.Server
	cfg.Bind(pflag.NewFlagSet("", pflag.ContinueOnError)) // for the defaults
	port, err := freePort()
	if err != nil {
		return none, nil, err
	}
	cfg.DataDir, cfg.BindAddress, cfg.NodeIP, cfg.HTTPSPort, cfg.DisableNode = dataDir, "127.0.0.1", "127.0.0.1", port, true
	cfg.SchedulerConfig, cfg.LogLevel = f.schedulerConfig, f.logLevel
	cfg.NodeName = "simulator"
	if err := cfg.Complete(); err != nil {
		return none, nil, err
	}
	level, err := cfg.Level()
	if err != nil {
		return none, nil, err
	}
	quiet := &untilStop{w: progress}
	server, err := cluster.NewServer(cfg, slog.New(slog.NewTextHandler(quiet, &slog.HandlerOptions{Level: level})), func(string, ...any) {})
	if err != nil {
		return none, nil, err
	}
	ready := make(chan served, 1)
	x := cluster.Simulation{Ready: func(h http.Handler, sources []client.Source) {
		pods := slices.DeleteFunc(sources, func(s client.Source) bool { return s.GroupResource != schema.GroupResource{Resource: "pods"} })
		ready <- served{h, pods}
	}}
	x.Without = []string{"node-ipam-controller"} // nodes that are made up have no pods to give addresses to, and are more than there are networks
	if !s.Kubelets {
		// Nodes without kubelets would be taken for dead.
		x.Without = append(x.Without, "node-controller")
	}
	server.Simulate(x)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	stop := func() error {
		quiet.stopped.Store(true)
		cancel()
		return <-ended
	}
	select {
	case err := <-ended:
		cancel()
		return none, nil, fmt.Errorf("start the control plane: %w", err)
	case s := <-ready:
		if !f.https {
			as := &user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}
			// Hollow nodes see the store's own objects: with a copy of each pod beside them, the measuring would need more memory than what is measured.
			shared := func(c kubernetes.Interface) *informers.Factory { return client.Informers(c, s.pods) }
			poster := client.NewPoster(s.handler, as, "celox-simulate")
			return simulate.Config{API: client.InProcess(s.handler, as, "celox-simulate"), Send: poster.Send, Informers: shared}, stop, nil
		}
		api, err := clientcmd.BuildConfigFromFlags("", cfg.WriteKubeconfig)
		if err != nil {
			return none, nil, errors.Join(err, stop())
		}
		api.ContentType = "application/vnd.kubernetes.protobuf"
		api.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
		return simulate.Config{API: api}, stop, nil
	}
}

// untilStop drops what is logged while the server stops: requests that were under way then fail, and nobody minds.
type untilStop struct {
	w       io.Writer
	stopped atomic.Bool
}

func (u *untilStop) Write(p []byte) (int, error) {
	if u.stopped.Load() {
		return len(p), nil
	}
	return u.w.Write(p)
}

// freePort is a port of the loopback interface that nobody uses now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// writeHeap writes what is in use now.
func writeHeap(name string) error {
	file, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("--heap-profile: %w", err)
	}
	runtime.GC()
	return errors.Join(pprof.WriteHeapProfile(file), file.Close())
}

func writeSVG(name string, r *simulate.Report) error {
	file, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("--svg: %w", err)
	}
	return errors.Join(r.SVG(file), file.Close())
}
