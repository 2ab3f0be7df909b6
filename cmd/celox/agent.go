package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/celox/celox/internal/cluster"
	"github.com/celox/celox/internal/cluster/config"
)

func newAgent() *cobra.Command {
	var (
		cfg  config.Agent
		file string
	)
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Join a cluster and run a node of it, in the foreground",
		Long: `Join a cluster and run a node of it, in the foreground: node agent, container runtime, pod network, services and DNS of this machine.

The first start needs --server and --token, which "celox token create" prints on the server. The machine gets certificates of its own by it, and later starts need
neither. While the server is away, what runs goes on. SIGTERM stops Celox and leaves the containers running; "celox reset" removes the node from this machine.

Every flag is also a key of the --config file and a variable: --data-dir is data-dir in YAML and CELOX_DATA_DIR. The command line wins over the environment, and
that over the file.`,
		Example: `  celox agent --server https://10.0.0.1:6443 --token abcdef.0123456789abcdef.HASH
  celox agent --server https://10.0.0.1:6443 --token-file /run/token --node-name rack7-2 --node-ip 10.0.0.7
  celox agent`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
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
			a, err := cluster.NewAgent(cfg, log, func(format string, args ...any) {
				_, _ = fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...) // a closed terminal must not end the node
			})
			if err != nil {
				return err
			}
			return a.Run(cmd.Context())
		},
	}
	cfg.Bind(cmd.Flags())
	cmd.Flags().StringVar(&file, "config", "", "YAML file with the same keys as the flags")
	return cmd
}
