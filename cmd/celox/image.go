package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/celox/celox/internal/cluster"
	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/cluster/control"
	"github.com/celox/celox/internal/runtime/images"
)

func newImage() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "image",
		Short:   "Work with the images of this node",
		Long:    "Work with the images of this node, whether Celox runs or not.",
		Example: "  celox image import app.tar\n  celox image pull docker.io/library/nginx:1.29\n  celox image list",
	}
	cmd.PersistentFlags().String("data-dir", config.DefaultDataDir, "directory of the cluster")
	cmd.PersistentFlags().StringSlice("registry-mirror", nil, "REGISTRY=URL to look at first; only while no server runs, whose own settings count")
	cmd.PersistentFlags().StringSlice("insecure-registry", nil, "registry host to speak to without checking certificates; only while no server runs")
	cmd.AddCommand(newImageImport(), newImagePull(), newImageList(), newImageRemove(), newImagePrune())
	return cmd
}

// withImages finds the image store: that of the running Celox, or that on the disk. A command that gives it images makes it if need be.
func withImages(cmd *cobra.Command, gives bool, do func(ctx context.Context, i control.Images) error) error {
	if err := config.Apply(cmd.Flags(), os.Environ(), ""); err != nil {
		return err
	}
	dir, err := cmd.Flags().GetString("data-dir")
	if err != nil {
		return err
	}
	registries, err := registriesOf(cmd)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	client, err := control.Dial(ctx, dir)
	if err == nil {
		return do(ctx, client)
	}
	if !errors.Is(err, control.ErrNotRunning) {
		return err
	}
	if _, err := os.Stat(dir); err != nil && !gives {
		return fmt.Errorf("no images: %w: name the directory of the cluster with --data-dir", err)
	}
	if os.Geteuid() != 0 {
		return errors.New("images belong to root: run as root")
	}
	if err := cluster.Mark(dir); err != nil {
		return err
	}
	store, err := images.Open(images.Config{
		Root: filepath.Join(dir, cluster.ImagesDir), Registries: registries, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	err = do(ctx, control.Local{Store: store})
	return errors.Join(err, store.Close())
}

// registriesOf is what the flags say of registries.
func registriesOf(cmd *cobra.Command) (images.Registries, error) {
	var node config.Node
	var err error
	if node.RegistryMirrors, err = cmd.Flags().GetStringSlice("registry-mirror"); err != nil {
		return images.Registries{}, err
	}
	mirrors, err := node.Mirrors()
	if err != nil {
		return images.Registries{}, fmt.Errorf("--registry-mirror: %w", err)
	}
	insecure, err := cmd.Flags().GetStringSlice("insecure-registry")
	if err != nil {
		return images.Registries{}, err
	}
	if err := config.CheckRegistryHosts(insecure); err != nil {
		return images.Registries{}, fmt.Errorf("--insecure-registry: %w", err)
	}
	return images.Registries{Mirrors: mirrors, Insecure: insecure}, nil
}

func newImageImport() *cobra.Command {
	var output outputFormat
	cmd := &cobra.Command{
		Use:   "import FILE|-",
		Short: "Import images from a docker archive or an OCI layout in a tar file",
		Example: `  celox image import app.tar
  docker save app:1 other:2 | celox image import -`,
		Args: takes("FILE|-"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var in io.Reader
			if args[0] == "-" {
				in = input(cmd)
			} else {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer func() { _ = f.Close() }() // read only
				in = f
			}
			return withImages(cmd, true, func(ctx context.Context, i control.Images) error {
				p := newProgress(cmd.ErrOrStderr(), output.json)
				got, err := i.Import(ctx, in, p.show)
				p.end(err == nil)
				if err != nil {
					return err
				}
				if output.json {
					return writeJSON(cmd.OutOrStdout(), got)
				}
				for _, img := range got {
					for _, tag := range append(img.RepoTags, untagged(img)...) {
						_, _ = fmt.Fprintf(cmd.OutOrStdout(), "imported %s\n", tag)
					}
				}
				return nil
			})
		},
	}
	output.bind(cmd)
	return cmd
}

func untagged(img images.Image) []string {
	if len(img.RepoTags) > 0 {
		return nil
	}
	return []string{img.ID}
}

func newImagePull() *cobra.Command {
	var (
		login  string
		output outputFormat
	)
	cmd := &cobra.Command{
		Use:   "pull REF",
		Short: "Pull an image from a registry",
		Long: `Pull an image from a registry. On a terminal a bar shows how much of its layers is there; elsewhere each layer is a line on standard error
when it is complete, and with -o json nothing but the image is printed.`,
		Example: "  celox image pull nginx\n  celox image pull --login user:password registry.example.com/app:1",
		Args:    takes("REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var auth *images.Auth
			if login != "" {
				u, p, ok := strings.Cut(login, ":")
				if !ok {
					return errors.New("--login: want USER:PASSWORD")
				}
				auth = &images.Auth{Username: u, Password: p}
			}
			return withImages(cmd, true, func(ctx context.Context, i control.Images) error {
				p := newProgress(cmd.ErrOrStderr(), output.json)
				img, err := i.Pull(ctx, args[0], auth, p.show)
				p.end(err == nil)
				if err != nil {
					return err
				}
				if output.json {
					return writeJSON(cmd.OutOrStdout(), img)
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "pulled %s (%s)\n", args[0], img.ID)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&login, "login", "", "USER:PASSWORD for the registry")
	output.bind(cmd)
	return cmd
}

func newImageList() *cobra.Command {
	var output outputFormat
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the images of this node",
		Example: "  celox image list\n  celox image list -o json",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withImages(cmd, false, func(ctx context.Context, i control.Images) error {
				list, err := i.List(ctx)
				if err != nil {
					return err
				}
				if output.json {
					return writeJSON(cmd.OutOrStdout(), append([]images.Image{}, list...)) // never null
				}
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
				_, _ = fmt.Fprintln(w, "IMAGE\tID\tSIZE\tAGE")
				for _, img := range list {
					for _, tag := range append(img.RepoTags, untagged(img)...) {
						_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", tag, shortID(img.ID), size(img.Size), duration.HumanDuration(time.Since(img.Pulled)))
					}
				}
				return w.Flush()
			})
		},
	}
	output.bind(cmd)
	return cmd
}

// outputFormat is the flag -o.
type outputFormat struct{ json bool }

func (o *outputFormat) bind(cmd *cobra.Command) {
	cmd.Flags().VarP(o, "output", "o", "text or json")
}

// Set implements pflag.Value.
func (o *outputFormat) Set(s string) error {
	if o.json = s == "json"; !o.json && s != "text" && s != "" {
		return errors.New("use text or json")
	}
	return nil
}

// Type implements pflag.Value.
func (o *outputFormat) Type() string { return "string" }

func (o *outputFormat) String() string {
	if o.json {
		return "json"
	}
	return "text"
}

func writeJSON(w io.Writer, what any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(what)
}

func newImageRemove() *cobra.Command {
	return &cobra.Command{
		Use:     "remove REF...",
		Aliases: []string{"rm"},
		Short:   "Remove images by name or id",
		Example: "  celox image remove app:1",
		Args:    takes("REF..."),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withImages(cmd, false, func(ctx context.Context, i control.Images) error {
				var errs []error
				for _, ref := range args {
					gone, err := removed(ctx, i, ref)
					if err == nil && !gone {
						err = fmt.Errorf("there is no image %s", ref)
					}
					if err != nil {
						errs = append(errs, err)
						continue
					}
					_, _ = fmt.Fprintf(cmd.OutOrStdout(), "removed %s\n", ref)
				}
				return errors.Join(errs...)
			})
		},
	}
}

// removed removes an image or a name of one, and says whether there was such a thing: for a container runtime that is no error.
func removed(ctx context.Context, i control.Images, ref string) (bool, error) {
	names := func() (int, error) {
		list, err := i.List(ctx)
		n := len(list)
		for _, img := range list {
			n += len(img.RepoTags) + len(img.RepoDigests)
		}
		return n, err
	}
	before, err := names()
	if err != nil {
		return false, err
	}
	if err := i.Remove(ctx, ref); err != nil {
		return false, err
	}
	after, err := names()
	return after < before, err
}

func newImagePrune() *cobra.Command {
	var output outputFormat
	cmd := &cobra.Command{
		Use:     "prune",
		Short:   "Remove the images that no container uses",
		Example: "  celox image prune",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withImages(cmd, false, func(ctx context.Context, i control.Images) error {
				gone, err := i.Prune(ctx)
				if err != nil {
					return err
				}
				if output.json {
					return writeJSON(cmd.OutOrStdout(), append([]images.Image{}, gone...)) // never null
				}
				var freed int64
				for _, img := range gone {
					freed += img.Size
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "removed %d images, %s\n", len(gone), size(freed))
				return err
			})
		},
	}
	output.bind(cmd)
	return cmd
}

func shortID(id string) string {
	_, hex, _ := strings.Cut(id, ":")
	return hex[:min(12, len(hex))]
}

func size(n int64) string {
	const unit = 1000.0
	f := float64(n)
	for _, u := range []string{"B", "kB", "MB"} {
		if f < unit {
			return fmt.Sprintf("%.3g %s", f, u)
		}
		f /= unit
	}
	return fmt.Sprintf("%.3g GB", f)
}
