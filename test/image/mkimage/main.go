// Mkimage writes a docker archive with one image: a program of this machine, or busybox.
//
//	mkimage -o web.tar -tag celox.dev/web:1 bin/web
//	mkimage -o busybox.tar -tag busybox:1 -busybox
package main

import (
	"flag"
	"fmt"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/celox/celox/test/image"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "mkimage: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	out := flag.String("o", "image.tar", "file to write")
	tag := flag.String("tag", "", "name of the image")
	busybox := flag.Bool("busybox", false, "make a busybox image instead of one with a program")
	flag.Parse()
	var (
		img v1.Image
		err error
	)
	switch {
	case *busybox:
		img, err = image.Busybox("sh")
	case flag.NArg() == 1:
		img, err = image.Build(image.Spec{Files: map[string]string{"app": flag.Arg(0)}, Entrypoint: []string{"/app"}})
	default:
		return fmt.Errorf("want -busybox or one program")
	}
	if err != nil {
		return err
	}
	f, err := os.Create(*out)
	if err != nil {
		return err
	}
	if err := image.WriteArchive(f, map[string]v1.Image{*tag: img}); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
