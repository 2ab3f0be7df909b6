// Celox is Kubernetes in one binary. This package has the commands and their flags, nothing else.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	_ "github.com/celox/celox/cmd/celox/aaquiet" // before kubectl's packages are initialized

	"github.com/spf13/cobra"

	"github.com/celox/celox/internal/timezones"
)

func main() { os.Exit(run()) }

func run() int {
	timezones.Register() // cron jobs name zones, and not every machine knows them
	args := os.Args[1:]
	if filepath.Base(os.Args[0]) == "kubectl" {
		args = append([]string{"kubectl"}, args...)
	}
	ctx, stop := signal.NotifyContext(context.Background(), endSignals()...)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var code exitCode
	if errors.As(err, &code) {
		return int(code)
	}
	fmt.Fprintf(os.Stderr, "celox: %v\n", err)
	return 1
}

// endSignals are what a command is told to end with.
func endSignals() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }

// exitCode ends the process with a code when everything has been said.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "celox",
		Short: "Kubernetes in one binary",
		Long:  "Celox is Kubernetes in one binary: API server, etcd, scheduler, controllers, node agent and container runtime.",
		Example: `  celox server                          start a one-node cluster in the foreground
  celox token create                    let other machines join
  celox agent --server ... --token ...  be one of them
  celox kubectl get pods -A             talk to it
  celox explain pod web-0               why it has no node, and what would help
  celox image import app.tar            give it an image
  celox reset                           remove it`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newServer(), newAgent(), newToken(), newNode(), newKubectl(), newImage(), newExplain(), newSimulate(), newReset(), newVersion())
	root.InitDefaultCompletionCmd()
	root.SetFlagErrorFunc(wrongFlag)
	for _, c := range append(root.Commands(), root) {
		if c.HasSubCommands() {
			asGroup(c)
		}
		if c.Name() == "completion" {
			for _, shell := range c.Commands() {
				shell.Args = takes()
			}
		}
	}
	// A group can be run, to say which commands it has, but that is no way to use it.
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .Runnable}}", "{{if and .Runnable (not .HasAvailableSubCommands)}}", 1))
	return root
}

// input is what the command is given on its standard input, until it is told to end: a read that waits for a terminal or a pipe cannot be ended
// otherwise.
func input(cmd *cobra.Command) io.Reader {
	r, w := io.Pipe()
	context.AfterFunc(cmd.Context(), func() { _ = w.CloseWithError(context.Cause(cmd.Context())) })
	go func() { // the read that waits goes with the process
		_, err := io.Copy(w, cmd.InOrStdin())
		_ = w.CloseWithError(err)
	}()
	return r
}
