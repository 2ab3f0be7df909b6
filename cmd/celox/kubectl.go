package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"

	"github.com/celox/celox/internal/cluster"
	"github.com/celox/celox/internal/cluster/config"
)

func newKubectl() *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [--data-dir DIR] COMMAND ...",
		Short: "Run the built-in kubectl against the cluster",
		Long: `Run the built-in kubectl. Without --kubeconfig and KUBECONFIG it uses the administrator's kubeconfig of the cluster in --data-dir.

A link to celox that is named kubectl is kubectl.`,
		Example: "  celox kubectl get nodes\n  celox kubectl --data-dir /srv/celox apply -f app.yaml",
		// kubectl parses its own flags.
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			dataDir, args := takeDataDir(args)
			if dataDir == "" {
				dataDir = os.Getenv(config.EnvPrefix + "DATA_DIR")
			}
			if dataDir == "" {
				dataDir = config.DefaultDataDir
			}
			flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50)
			if os.Getenv("KUBECONFIG") == "" {
				own := filepath.Join(dataDir, cluster.AdminKubeconfig)
				if _, err := os.Stat(own); err == nil {
					flags.KubeConfig = &own // the flag's default: --kubeconfig overrides it
				}
			}
			// kubectl looks for plugins by the whole command line, whose first word is the program.
			all := append([]string{"kubectl"}, args...)
			k := kubectl.NewDefaultKubectlCommandWithArgs(kubectl.KubectlOptions{
				PluginHandler: kubectl.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
				Arguments:     all,
				ConfigFlags:   flags,
				IOStreams:     genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
			})
			k.SetArgs(args)
			k.SilenceErrors = true // they are told below
			if err := k.ExecuteContext(cmd.Context()); err != nil {
				kubectlutil.CheckErr(err) // prints as kubectl does, and exits with its code
			}
			return nil
		},
	}
}

// takeDataDir takes --data-dir out of kubectl's arguments, unless it stands behind "--", where it belongs to somebody else.
func takeDataDir(args []string) (dir string, rest []string) {
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--":
			return dir, append(rest, args[i:]...)
		case args[i] == "--data-dir" && i+1 < len(args):
			i++
			dir = args[i]
		case strings.HasPrefix(args[i], "--data-dir="):
			dir = strings.TrimPrefix(args[i], "--data-dir=")
		default:
			rest = append(rest, args[i])
		}
	}
	return dir, rest
}
