package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/celox/celox/internal/cluster/version"
)

func newVersion() *cobra.Command {
	var output outputFormat
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print which Celox this is",
		Example: "  celox version\n  celox version -o json",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			info := version.Info()
			if output.json {
				return writeJSON(cmd.OutOrStdout(), info)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "celox %s (Kubernetes %s, %s)\n", version.Build, version.Kubernetes, info.GoVersion)
			return err
		},
	}
	output.bind(cmd)
	return cmd
}
