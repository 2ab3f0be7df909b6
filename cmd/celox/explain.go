package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/celox/celox/internal/cluster"
	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/scheduler/explain"

	schedulerconfig "github.com/celox/celox/internal/scheduler/config"
)

func newExplain() *cobra.Command {
	var kubeconfig, contextName, dataDir, namespace, output, schedulerConfig string
	cmd := &cobra.Command{
		Use:   "explain pod NAME",
		Short: "Say in plain words why a pod has no node, or why it has the one that it has",
		Long: `Say in plain words why a pod has no node, or why it has the one that it has: for each node which plugin of the scheduler speaks against it, what would have to
change, and which node is the nearest to fitting.

The verdicts are those of the scheduler's own core, over what the API says now. Any cluster will do: without --kubeconfig and KUBECONFIG it is that in --data-dir.
(What fields mean is "celox kubectl explain".)`,
		Example: `  celox explain pod web-0
  celox explain pod web-0 -n shop -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			return checkArguments(cmd, kindAndName(args), []string{"pod", "NAME"})
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			args = kindAndName(args)
			if args[0] != "pod" && args[0] != "pods" && args[0] != "po" {
				return fmt.Errorf("%q can't be explained: use celox explain pod NAME (what fields mean is celox kubectl explain)", args[0])
			}
			if output != "text" && output != "json" {
				return fmt.Errorf("--output: %q: use text or json", output)
			}
			if err := config.Apply(cmd.Flags(), os.Environ(), ""); err != nil {
				return err
			}
			settings := schedulerconfig.Default()
			if schedulerConfig != "" {
				var err error
				if settings, err = schedulerconfig.Load(schedulerConfig); err != nil {
					return err
				}
			}
			api, ns, err := kubeClient(kubeconfig, contextName, dataDir)
			if err != nil {
				return err
			}
			api.QPS = -1
			c, err := kubernetes.NewForConfig(api)
			if err != nil {
				return err
			}
			r, err := explain.Explain(cmd.Context(), c, settings, cmp.Or(namespace, ns), args[1])
			if err != nil {
				return err
			}
			if output == "json" {
				return r.JSON(cmd.OutOrStdout())
			}
			return r.Text(cmd.OutOrStdout())
		},
	}
	fs := cmd.Flags()
	fs.StringVarP(&namespace, "namespace", "n", "", "namespace of the pod (default: that of the kubeconfig's context)")
	fs.StringVarP(&output, "output", "o", "text", "text or json")
	fs.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig to use")
	fs.StringVar(&contextName, "context", "", "context of the kubeconfig")
	fs.StringVar(&dataDir, "data-dir", config.DefaultDataDir, "directory of the cluster")
	fs.StringVar(&schedulerConfig, "scheduler-config", "", "the configuration that the cluster's scheduler has, if it has one")
	return cmd
}

// kindAndName makes two arguments of pod/NAME, as kubectl prints it.
func kindAndName(args []string) []string {
	if len(args) == 1 {
		if kind, name, ok := strings.Cut(args[0], "/"); ok {
			return []string{kind, name}
		}
	}
	return args
}

// kubeClient is how the API is reached, and the namespace of the context: by the kubeconfig that is named, by that of KUBECONFIG, or as administrator of the cluster in a
// directory.
func kubeClient(kubeconfig, contextName, dataDir string) (*rest.Config, string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	own := filepath.Join(dataDir, cluster.AdminKubeconfig)
	switch _, err := os.Stat(own); {
	case kubeconfig != "":
		rules.ExplicitPath = kubeconfig
	case os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" && err == nil:
		rules.ExplicitPath = own
	}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: contextName})
	api, err := loader.ClientConfig()
	if named := os.Getenv(clientcmd.RecommendedConfigPathEnvVar); clientcmd.IsEmptyConfig(err) && named != "" {
		return nil, "", fmt.Errorf("no cluster is known: KUBECONFIG is %s, where there is none", named)
	}
	if clientcmd.IsEmptyConfig(err) {
		return nil, "", fmt.Errorf("no cluster is known: there is no %s; name one with --data-dir, --kubeconfig or KUBECONFIG", own)
	}
	if err != nil {
		return nil, "", fmt.Errorf("kubeconfig: %w", err)
	}
	api.Wrap(func(next http.RoundTripper) http.RoundTripper { return asking{next} })
	namespace, _, err := loader.Namespace()
	return api, namespace, err
}

// asking has the error of a server that isn't there say what to look at.
type asking struct{ http.RoundTripper }

func (a asking) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := a.RoundTripper.RoundTrip(r)
	if errors.Is(err, syscall.ECONNREFUSED) {
		err = fmt.Errorf("%w: does celox server run there?", err)
	}
	return resp, err
}
