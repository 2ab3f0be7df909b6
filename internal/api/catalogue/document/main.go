package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/catalogue"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: document FILE")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "document:", err)
		os.Exit(1)
	}
}

func run(file string) error {
	c, err := catalogue.New()
	if err != nil {
		return err
	}
	return os.WriteFile(file, page(c), 0o644)
}

const head = `# The API

<!-- Made by "make generate" from the catalogue in internal/api; a test fails when it is not current. -->

Every kind that the API server serves by itself, with the versions it is served in (the one that it is kept in is bold; old ones that are only
understood, with a warning, are in brackets). "all" are the eight verbs create, delete, deletecollection, get, list, patch, update and watch.
Custom resources and aggregated APIs come on top.
`

// page is the document. The groups and the kinds in them come in the order of discovery.
func page(c *api.Catalogue) []byte {
	var b bytes.Buffer
	b.WriteString(head)
	kinds := map[string][]*api.Kind{}
	for _, k := range c.Kinds() {
		kinds[k.Group] = append(kinds[k.Group], k)
	}
	for _, g := range c.Groups() {
		list := kinds[g.Name]
		if len(list) == 0 {
			continue // a second door to another group's kind
		}
		slices.SortFunc(list, func(a, b *api.Kind) int { return strings.Compare(a.Resource, b.Resource) })
		name := g.Name
		if name == "" {
			name = "core"
		}
		fmt.Fprintf(&b, "\n## %s\n\n| kind | resource | scope | versions | verbs | short names | categories | subresources | field selectors |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n", name)
		for _, k := range list {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(cells(k), " | "))
		}
	}
	return b.Bytes()
}

func cells(k *api.Kind) []string {
	scope := "cluster"
	if k.Namespaced {
		scope = "namespace"
	}
	var subresources []string
	for i := range k.Subresources {
		s := &k.Subresources[i]
		subresources = append(subresources, fmt.Sprintf("%s (%s)", s.Name, strings.Join(s.Verbs, " ")))
	}
	return []string{
		k.Kind, k.Resource, scope, strings.Join(versions(k), ", "), verbs(k.ResourceVerbs()), strings.Join(k.ShortNames, ", "),
		strings.Join(k.Categories, ", "), strings.Join(subresources, ", "), strings.Join(k.FieldNames, ", "),
	}
}

func versions(k *api.Kind) []string {
	var out []string
	for i := range k.Versions {
		v := &k.Versions[i]
		text := v.Version
		if v.Group != "" && v.Group != k.Group {
			text = v.Group + "/" + v.Version
		}
		switch {
		case v.Hidden:
			text = "(" + text + ")"
		case v == k.HubVersion() && !k.Virtual:
			text = "**" + text + "**"
		}
		out = append(out, text)
	}
	return out
}

func verbs(list []string) string {
	sorted := slices.Sorted(slices.Values(list))
	if slices.Equal(sorted, api.AllVerbs()) {
		return "all"
	}
	return strings.Join(sorted, " ")
}
