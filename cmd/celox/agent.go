package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/celox/celox/internal/cluster"
	"github.com/celox/celox/internal/cluster/config"
)

func newAgent() *cobra.Command {
	var cfg config.Agent
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
  celox agent --server https://[fd07::1]:6443 --token-file /run/token --node-ip 10.0.0.7,fd07::7
  celox agent`,
	}
	return inForeground(cmd, &cfg, func(ctx context.Context, log *slog.Logger, say cluster.Say) error {
		a, err := cluster.NewAgent(cfg, log, say)
		if err != nil {
			return err
		}
		return a.Run(ctx)
	})
}
