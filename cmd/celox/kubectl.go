package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
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
			signal.Reset(endSignals()...) // kubectl catches them where it has something to do at its end, and else looks at no context
			kubectlutil.BehaviorOnFatal(endKubectl(args))
			dataDir, args := kubectlDataDir(args)
			flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50)
			if os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" {
				own := filepath.Join(dataDir, cluster.AdminKubeconfig)
				if _, err := os.Stat(own); err == nil {
					// Plugins and kubectl's own config commands look for it there, too; --kubeconfig overrides it.
					if err := os.Setenv(clientcmd.RecommendedConfigPathEnvVar, own); err != nil {
						return err
					}
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

// endKubectl ends the process with what kubectl ends with, and what to do about it. Args are those of kubectl.
func endKubectl(args []string) func(message string, code int) {
	return func(message string, code int) {
		dir, _ := kubectlDataDir(args)
		for _, text := range []string{message, refusedHint(message, dir)} {
			if text != "" {
				_, _ = fmt.Fprintln(os.Stderr, strings.TrimSuffix(text, "\n")) // there is nobody else to tell
			}
		}
		os.Exit(code)
	}
}

// refusedHint says what to do when nobody answers where kubectl looks for the cluster: it knows of none, or it is that of a directory.
func refusedHint(message, dataDir string) string {
	host, ok := strings.CutPrefix(message, "The connection to the server ")
	if host, _, _ = strings.Cut(host, " was refused"); !ok {
		return ""
	}
	own := filepath.Join(dataDir, cluster.AdminKubeconfig)
	if named := os.Getenv(clientcmd.RecommendedConfigPathEnvVar); named != "" && named != own {
		if host == "localhost:8080" {
			return "No cluster is known: KUBECONFIG is " + named + ", where there is none."
		}
		return ""
	}
	known, err := clientcmd.LoadFromFile(own)
	if err != nil {
		if host == "localhost:8080" { // where kubectl looks when it knows of no cluster
			return "No cluster is known: there is no " + own + ". Start one with celox server, or name one with --data-dir, --kubeconfig or KUBECONFIG."
		}
		return ""
	}
	for _, c := range known.Clusters {
		if c.Server == "https://"+host {
			return "Does the cluster in " + dataDir + " run? celox server --data-dir " + dataDir + " starts it."
		}
	}
	return ""
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

// kubectlDataDir is the directory of kubectl's cluster: that of the arguments, which it takes out of them, or of the environment, or the default.
func kubectlDataDir(args []string) (dir string, rest []string) {
	dir, rest = takeDataDir(args)
	return cmp.Or(dir, os.Getenv(config.EnvPrefix+"DATA_DIR"), config.DefaultDataDir), rest
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
