package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/klog/v2"
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
			// kubectl looks for plugins and for aliases (kuberc) by the whole command line, whose first word is the program. An alias sets the
			// arguments of the command that comes back; one that sets nothing takes them from where a program has them.
			all := append([]string{"kubectl"}, args...)
			os.Args = all
			k := kubectl.NewDefaultKubectlCommandWithArgs(kubectl.KubectlOptions{
				PluginHandler: kubectl.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
				Arguments:     all,
				ConfigFlags:   flags,
				IOStreams:     genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
			})
			addLogFlags(k.PersistentFlags())
			k.SilenceErrors = true // they are told below
			if err := k.ExecuteContext(cmd.Context()); err != nil {
				kubectlutil.CheckErr(err) // prints as kubectl does, and exits with its code
			}
			return nil
		},
	}
}

// addLogFlags adds the flags that say what kubectl's libraries tell of what they do. They tell it on stderr, which nobody holds back, so that how often
// it is flushed makes no difference; the flag is for those who are used to giving it.
func addLogFlags(to *pflag.FlagSet) {
	var logs flag.FlagSet
	klog.InitFlags(&logs)
	for _, name := range []string{"v", "vmodule"} {
		to.AddFlag(pflag.PFlagFromGoFlag(logs.Lookup(name)))
	}
	to.Duration("log-flush-frequency", 5*time.Second, "Maximum number of seconds between log flushes")
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
