package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/celox/celox/internal/cluster/version"
)

func newVersion() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print which Celox this is",
		Example: "  celox version\n  celox version -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info := version.Info()
			switch output {
			case "":
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "celox %s (Kubernetes %s, %s)\n", version.Build, version.Kubernetes, info.GoVersion)
				return err
			case "json":
				return json.NewEncoder(cmd.OutOrStdout()).Encode(info)
			}
			return fmt.Errorf("-o %q: only json is known", output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json for a machine")
	return cmd
}
