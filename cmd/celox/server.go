package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/celox/celox/internal/cluster"
	"github.com/celox/celox/internal/cluster/config"
)

func newServer() *cobra.Command {
	var cfg config.Server
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run control plane and node in one process, in the foreground",
		Long: `Run control plane and node in one process, in the foreground.

Every flag is also a key of the --config file and a variable: --data-dir is data-dir in YAML and CELOX_DATA_DIR. The command line wins over
the environment, and that over the file. SIGTERM stops Celox and leaves the containers running; the next start picks them up again.`,
		Example: `  celox server
  celox server --data-dir /srv/celox --https-port 7443
  celox server --disable-node --etcd-servers https://10.0.0.5:2379 --etcd-cafile ca.crt --etcd-certfile client.crt --etcd-keyfile client.key`,
	}
	return inForeground(cmd, &cfg, func(ctx context.Context, log *slog.Logger, say cluster.Say) error {
		s, err := cluster.NewServer(cfg, log, say)
		if err != nil {
			return err
		}
		return s.Run(ctx)
	})
}

// settings are what a command that runs until it is told to stop can be told.
type settings interface {
	Bind(*pflag.FlagSet)
	Complete() error
	Level() (slog.Level, error)
}

// inForeground completes such a command: its flags, and before it runs its configuration, its log and its voice.
func inForeground(cmd *cobra.Command, cfg settings, run func(context.Context, *slog.Logger, cluster.Say) error) *cobra.Command {
	var file string
	cmd.Args = takes()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if file == "" {
			file = os.Getenv(config.EnvPrefix + "CONFIG")
		}
		if err := config.Apply(cmd.Flags(), os.Environ(), file); err != nil {
			return err
		}
		if err := cfg.Complete(); err != nil {
			return err
		}
		level, err := cfg.Level()
		if err != nil {
			return err
		}
		log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
		return run(cmd.Context(), log, func(format string, args ...any) {
			_, _ = fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...) // a closed terminal must not end the cluster
		})
	}
	cfg.Bind(cmd.Flags())
	cmd.Flags().StringVar(&file, "config", "", "YAML file with the same keys as the flags")
	return cmd
}

func newReset() *cobra.Command {
	var (
		dataDir string
		yes     bool
	)
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Stop and remove everything that a cluster ever made on this machine",
		Long: `Stop and remove everything that the cluster of a data directory ever made on this machine: containers, mounts, network
namespaces, bridge, cgroups, and the data directory itself. Other clusters are not touched.`,
		Example: "  celox reset\n  celox reset --data-dir /srv/celox --yes",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Apply(cmd.Flags(), os.Environ(), ""); err != nil {
				return err
			}
			if dataDir == "" {
				return errors.New(`--data-dir: "" is no directory name`)
			}
			var sure func() error
			if !yes {
				sure = func() error {
					_, _ = fmt.Fprintf(cmd.OutOrStdout(), "Remove the cluster in %s with all its data? Type yes: ", dataDir)
					var answer string
					if _, err := fmt.Fscanln(input(cmd), &answer); err != nil || answer != "yes" {
						return errors.New("nothing was removed (run with --yes to skip the question)")
					}
					return nil
				}
			}
			return cluster.Reset(cmd.Context(), dataDir, sure, func(format string, args ...any) {
				_, _ = fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...)
			})
		},
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", config.DefaultDataDir, "directory of the cluster")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
