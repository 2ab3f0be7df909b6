package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/celox/celox/internal/cluster/config"
)

// takes are a command's arguments: one for each name, and more for the last one if it ends with "...".
func takes(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error { return checkArguments(cmd, args, names) }
}

func checkArguments(cmd *cobra.Command, args, names []string) error {
	n := len(names)
	switch {
	case len(args) < n:
		missing, _, _ := strings.Cut(strings.TrimSuffix(strings.Join(names[len(args):], " "), "..."), "|")
		return wrongUse(cmd, cmd.UseLine(), missing+" is missing")
	case len(args) > n && (n == 0 || !strings.HasSuffix(names[n-1], "...")):
		return wrongUse(cmd, cmd.UseLine(), fmt.Sprintf("%q is one argument too many", args[n]))
	}
	return nil
}

// wrongUse is the error of a command line that cannot be understood: what is wrong with it, how the command is used, and an example.
func wrongUse(cmd *cobra.Command, usage, problem string) error {
	if cmd.HasParent() {
		_, path, _ := strings.Cut(cmd.CommandPath(), " ")
		problem = path + ": " + problem
	}
	text := problem + "\n  usage:   " + usage
	example, _, _ := strings.Cut(strings.TrimSpace(cmd.Example), "\n")
	if example, _, _ = strings.Cut(example, "  "); example != "" { // what stands behind is an explanation
		text += "\n  example: " + example
	}
	return errors.New(text)
}

// wrongFlag is the same for a flag.
func wrongFlag(cmd *cobra.Command, err error) error {
	var (
		unknown  *pflag.NotExistError
		invalid  *pflag.InvalidValueError
		required *pflag.ValueRequiredError
	)
	problem := err.Error()
	switch {
	case errors.As(err, &unknown):
		if like := config.Suggestion(cmd.Flags(), unknown.GetSpecifiedName()); like != "" {
			problem += fmt.Sprintf(": did you mean --%s?", like)
		}
	case errors.As(err, &invalid):
		problem = fmt.Sprintf("--%s: %q: %v", invalid.GetFlag().Name, invalid.GetValue(), config.Reason(err))
	case errors.As(err, &required):
		problem = fmt.Sprintf("--%s: its value is missing", required.GetFlag().Name)
	}
	return wrongUse(cmd, cmd.UseLine()+" ("+cmd.CommandPath()+" --help lists the flags)", problem)
}

// asGroup makes a command that only has others answer an unknown one with an error; by itself it shows its help, as before.
func asGroup(cmd *cobra.Command) {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		var names []string
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				names = append(names, c.Name())
			}
		}
		problem := fmt.Sprintf("%q is no command", args[0])
		cmd.SuggestionsMinimumDistance = 2
		if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
			problem += ": did you mean " + strings.Join(like, " or ") + "?"
		}
		return wrongUse(cmd, cmd.CommandPath()+" "+strings.Join(names, "|"), problem)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}
