package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// ownCommands are all commands that can be run, but those of kubectl, which speaks for itself.
func ownCommands(of *cobra.Command) []*cobra.Command {
	var out []*cobra.Command
	for _, c := range of.Commands() {
		if c.DisableFlagParsing || c.Name() == "help" {
			continue
		}
		out = append(append(out, c), ownCommands(c)...)
	}
	return out
}

// complaint is what a command line is answered with, which must not have been carried out.
func complaint(t *testing.T, args ...string) string {
	t.Helper()
	root := newRoot()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	if err == nil {
		t.Fatalf("celox %s: no error, but\n%s", strings.Join(args, " "), out.String())
	}
	if out.Len() > 0 {
		t.Errorf("celox %s: printed\n%s", strings.Join(args, " "), out.String())
	}
	return err.Error()
}

// TestFlagsNameTheirValues: pflag takes what stands between backquotes in a flag's description for the name of its value.
func TestFlagsNameTheirValues(t *testing.T) {
	for _, c := range ownCommands(newRoot()) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if name, _ := pflag.UnquoteUsage(f); strings.Contains(name, " ") {
				t.Errorf("%s --%s: its value is called %q", c.CommandPath(), f.Name, name)
			}
		})
	}
}

func TestWrongUse(t *testing.T) {
	tests := []struct{ args, want string }{
		{"node drain", "node drain: NAME is missing\n  usage:   celox node drain NAME [flags]\n  example: celox node drain rack7-2"},
		{"node remove a b", `node remove: "b" is one argument too many`},
		{"image import", "image import: FILE is missing"},
		{"image remove", "image remove: REF is missing"},
		{"token delete", "token delete: TOKEN is missing"},
		{"explain", "explain: pod NAME is missing"},
		{"explain pod", "explain: NAME is missing"},
		{"token create --ttl x", `token create: --ttl: "x": use a time like 90s, 10m or 1h30m`},
		{"token create --ttl", "token create: --ttl: its value is missing"},
		{"server --https-port x", `server: --https-port: "x": use a whole number`},
		{"server --node-nam x", "server: unknown flag: --node-nam: did you mean --node-name?"},
		{"reset --yes=x", `reset: --yes: "x": use true or false`},
		{"version -o x", `version: --output: "x": use text or json`},
		{"serve", "\"serve\" is no command: did you mean server?\n  usage:   celox agent|completion|explain|"},
		{"token --data-dir x creat", "token: \"creat\" is no command: did you mean create?\n  usage:   celox token create|delete|list\n  example: celox token create"},
		{"completion bash x", `completion bash: "x" is one argument too many`},
	}
	for _, tt := range tests {
		if got := complaint(t, strings.Fields(tt.args)...); !strings.HasPrefix(got, tt.want) {
			t.Errorf("celox %s: %s\nwant %s", tt.args, got, tt.want)
		}
	}
}

// Whatever is wrong with the line of any command, the answer shows how it is used.
func TestEveryCommandShowsItsUsage(t *testing.T) {
	for _, c := range ownCommands(newRoot()) {
		path := strings.Fields(c.CommandPath())[1:]
		lines := [][]string{{"--no-such-flag"}, {"a", "b", "c", "--no-such-flag"}}
		if !strings.Contains(c.Use, "...") {
			lines = append(lines, []string{"a", "b", "c"})
		}
		if c.Args(c, nil) != nil {
			lines = append(lines, nil)
		}
		for _, line := range lines {
			got := complaint(t, append(path, line...)...)
			if !strings.Contains(got, "\n  usage:   "+c.CommandPath()) || c.Example != "" && !strings.Contains(got, "\n  example: "+c.CommandPath()) && !c.HasSubCommands() {
				t.Errorf("celox %v %v: %s", path, line, got)
			}
		}
	}
}

// What a command takes is what its usage line says.
func TestArgumentsAreThoseOfTheUsage(t *testing.T) {
	for _, c := range ownCommands(newRoot()) {
		if c.HasSubCommands() {
			continue
		}
		words := strings.Fields(c.Use)[1:]
		if len(words) > 0 && strings.HasPrefix(words[0], "--") {
			words = nil
		}
		if n := len(words); n > 0 && words[n-1] == "..." {
			words = words[:n-1]
		}
		if err := c.Args(c, words); err != nil {
			t.Errorf("%s: %v", c.Use, err)
		}
		if len(words) > 0 && c.Args(c, words[1:]) == nil {
			t.Errorf("%s: one argument less is taken", c.Use)
		}
	}
}

func TestGroupsShowTheirHelp(t *testing.T) {
	for _, name := range []string{"", "token", "node", "image"} {
		root := newRoot()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetArgs(strings.Fields(name))
		if err := root.Execute(); err != nil {
			t.Errorf("celox %s: %v", name, err)
		}
		want := strings.TrimSpace("celox " + name)
		if text := out.String(); !strings.Contains(text, "\n  "+want+" [command]\n") || strings.Contains(text, want+" [flags]") {
			t.Errorf("%s: %s", want, text)
		}
	}
}

// TestInputEndsWithTheCommand: what waits for somebody to type does not outlive the signal that ends the command.
func TestInputEndsWithTheCommand(t *testing.T) {
	typed, keyboard := io.Pipe()
	t.Cleanup(func() { _ = keyboard.Close() })
	ctx, cancel := context.WithCancelCause(t.Context())
	cmd := &cobra.Command{}
	cmd.SetContext(ctx)
	cmd.SetIn(typed)
	in := bufio.NewReader(input(cmd))
	if _, err := io.WriteString(keyboard, "yes\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := in.ReadString('\n'); line != "yes\n" || err != nil {
		t.Errorf("typed: %q, %v", line, err)
	}
	told := errors.New("told to end")
	cancel(told)
	if line, err := in.ReadString('\n'); line != "" || !errors.Is(err, told) {
		t.Errorf("after the end: %q, %v", line, err)
	}
}
