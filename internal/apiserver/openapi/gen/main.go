package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"k8s.io/gengo/v2"
	"k8s.io/gengo/v2/generator"
	"k8s.io/kube-openapi/cmd/openapi-gen/args"
	"k8s.io/kube-openapi/pkg/generators"

	"github.com/celox/celox/internal/api/catalogue"
)

const (
	definitions = "gen/definitions"
	importPath  = "github.com/celox/celox/internal/apiserver/openapi/gen/definitions"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run() error {
	if _, err := os.Stat("gen/testdata/render"); err != nil {
		return fmt.Errorf("run me in the directory of package openapi: %w", err)
	}
	packages, err := packages()
	if err != nil {
		return err
	}
	defer os.RemoveAll(definitions)
	if err := generate(packages); err != nil {
		return fmt.Errorf("generating definitions: %w", err)
	}
	render := exec.Command("go", "run", "./gen/testdata/render", "data")
	render.Stdout, render.Stderr = os.Stdout, os.Stderr
	if err := render.Run(); err != nil {
		return fmt.Errorf("rendering documents: %w", err)
	}
	return nil
}

// packages lists the Go packages of all types that the API shows.
func packages() ([]string, error) {
	c, err := catalogue.New()
	if err != nil {
		return nil, err
	}
	list := []string{
		"k8s.io/apimachinery/pkg/apis/meta/v1",
		"k8s.io/apimachinery/pkg/runtime",
		"k8s.io/apimachinery/pkg/util/intstr",
		"k8s.io/apimachinery/pkg/api/resource",
		"k8s.io/apimachinery/pkg/version",
		"k8s.io/api/core/v1",
	}
	seen := map[reflect.Type]bool{}
	var add func(t reflect.Type)
	add = func(t reflect.Type) {
		if seen[t] {
			return
		}
		seen[t] = true
		if p := t.PkgPath(); strings.HasPrefix(p, "k8s.io/") && !slices.Contains(list, p) {
			list = append(list, p)
		}
		switch t.Kind() {
		case reflect.Struct:
			for i := range t.NumField() {
				add(t.Field(i).Type)
			}
		case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
			add(t.Elem())
		}
	}
	for gvk, t := range c.Scheme().AllKnownTypes() {
		for _, k := range c.Kinds() {
			for i := range k.Versions {
				if !k.Versions[i].Hidden && gvk == k.GroupVersion(&k.Versions[i]).WithKind(k.Kind) {
					add(t)
				}
			}
			for _, s := range k.Subresources {
				if gvk == s.Kind {
					add(t)
				}
			}
		}
	}
	slices.Sort(list)
	return list, nil
}

func generate(packages []string) error {
	if err := os.MkdirAll(definitions, 0o755); err != nil {
		return err
	}
	report, err := os.CreateTemp("", "openapi-report")
	if err != nil {
		return err
	}
	report.Close()
	defer os.Remove(report.Name())
	header := filepath.Join(definitions, "header.txt")
	if err := os.WriteFile(header, nil, 0o644); err != nil {
		return err
	}
	a := args.New()
	a.OutputDir, a.OutputPkg, a.OutputFile = definitions, importPath, "definitions.go"
	a.GoHeaderFile, a.ReportFilename = header, report.Name()
	boilerplate, err := gengo.GoBoilerplate(header, gengo.StdBuildTag, gengo.StdGeneratedBy)
	if err != nil {
		return err
	}
	targets := func(c *generator.Context) []generator.Target { return generators.GetOpenAPITargets(c, a, boilerplate) }
	err = gengo.Execute(generators.NameSystems(), generators.DefaultNameSystem(), targets, gengo.StdBuildTag, packages)
	if err != nil && strings.Contains(err.Error(), "violation") {
		return nil // the linter's opinion of upstream's types
	}
	return err
}
