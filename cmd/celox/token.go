package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/cluster/join"
)

// defaultTTL is how long a token is good unless told otherwise.
const defaultTTL = time.Hour

func newToken() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and remove tokens with which machines join the cluster",
		Long: `Make, list and remove tokens with which machines join the cluster as nodes (celox agent).

A token names the cluster by the hash of its authority, so that a machine that joins cannot be deceived, and is good for a short time. The cluster keeps only a
hash of it: nobody can read it there.`,
		Example: `  celox token create
  celox token create --ttl 10m --description "rack 7"
  celox token list
  celox token delete abcdef`,
	}
	fs := cmd.PersistentFlags()
	fs.String("data-dir", config.DefaultDataDir, "directory of the cluster")
	fs.String("kubeconfig", "", "kubeconfig to use")
	fs.String("context", "", "context of the kubeconfig")
	cmd.AddCommand(newTokenCreate(), newTokenList(), newTokenDelete())
	return cmd
}

// clusterClient is a client of the cluster that the flags name.
func clusterClient(cmd *cobra.Command) (kubernetes.Interface, *rest.Config, error) {
	fs := cmd.Flags()
	if err := config.Apply(fs, os.Environ(), ""); err != nil {
		return nil, nil, err
	}
	var values [3]string
	for i, name := range []string{"kubeconfig", "context", "data-dir"} {
		v, err := fs.GetString(name)
		if err != nil {
			return nil, nil, err
		}
		values[i] = v
	}
	api, _, err := kubeClient(values[0], values[1], values[2])
	if err != nil {
		return nil, nil, err
	}
	c, err := kubernetes.NewForConfig(api)
	return c, api, err
}

// checkOutput refuses what is no way to print.
func checkOutput(output string) error {
	if output != "text" && output != "json" {
		return fmt.Errorf("--output: %q: use text or json", output)
	}
	return nil
}

func printJSON(cmd *cobra.Command, v any) error {
	e := json.NewEncoder(cmd.OutOrStdout())
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// madeToken is what `token create -o json` prints.
type madeToken struct {
	join.Issued
	Token  string `json:"token"`
	Server string `json:"server,omitempty"`
}

func newTokenCreate() *cobra.Command {
	var (
		ttl                 time.Duration
		description, output string
	)
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token and print it",
		Long: `Make a token and print it: alone on the standard output, and what to do with it on the other.

It is shown this once. Who has it can join nodes until it expires or is removed; nodes that have joined do not need it any more.`,
		Example: `  celox token create
  celox token create --ttl 10m -o json
  ssh node-2 celox agent --server https://10.0.0.1:6443 --token $(celox token create)`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if ttl < 0 {
				return fmt.Errorf("--ttl: %s is over already: use a time like 1h, or 0 for ever", ttl)
			}
			c, api, err := clusterClient(cmd)
			if err != nil {
				return err
			}
			if err := rest.LoadTLSFiles(api); err != nil {
				return fmt.Errorf("kubeconfig: %w", err)
			}
			hash, err := join.HashPEM(api.CAData)
			if err != nil {
				return fmt.Errorf("kubeconfig: the cluster's authority: %w", err)
			}
			t, err := join.NewToken(hash)
			if err != nil {
				return err
			}
			var expires time.Time
			if ttl > 0 {
				expires = time.Now().Add(ttl)
			}
			issued, err := join.Issue(cmd.Context(), c, t, expires, description)
			if err != nil {
				return err
			}
			server, err := join.AdvertisedServer(cmd.Context(), c)
			if err != nil {
				return err
			}
			if output == "json" {
				return printJSON(cmd, madeToken{issued, t.String(), server})
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), t); err != nil {
				return err
			}
			until := "for ever"
			if ttl > 0 {
				until = "for " + duration.HumanDuration(ttl)
			}
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "Good %s. On a machine that is to join, as root:\n  celox agent --server %s --token TOKEN\n", until, server)
			return err
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", defaultTTL, "how long the token is good; 0 is for ever")
	cmd.Flags().StringVar(&description, "description", "", "what it is for")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func newTokenList() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the tokens that are good",
		Example: "  celox token list\n  celox token list -o json",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			c, _, err := clusterClient(cmd)
			if err != nil {
				return err
			}
			now := time.Now()
			tokens, err := join.Tokens(cmd.Context(), c, now)
			if err != nil {
				return err
			}
			if output == "json" {
				return printJSON(cmd, tokens)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			if _, err := fmt.Fprintln(w, "ID\tEXPIRES\tGROUPS\tDESCRIPTION"); err != nil {
				return err
			}
			for _, t := range tokens {
				left := "never"
				if t.Expires != nil {
					left = "in " + duration.HumanDuration(t.Expires.Sub(now))
				}
				if _, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.ID, left, strings.Join(t.Groups, ","), t.Description); err != nil {
					return err
				}
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func newTokenDelete() *cobra.Command {
	return &cobra.Command{
		Use:     "delete TOKEN ...",
		Aliases: []string{"rm"},
		Short:   "Remove tokens, named by their ids or as a whole",
		Example: "  celox token delete abcdef",
		Args:    takes("TOKEN..."),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := clusterClient(cmd)
			if err != nil {
				return err
			}
			for _, name := range args {
				id, err := join.Revoke(cmd.Context(), c, name)
				if err != nil {
					return err
				}
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "token %s deleted\n", id); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
