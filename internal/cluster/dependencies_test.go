package cluster

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Every module that our own code imports is explained in docs/dependencies.md.
func TestDependenciesAreExplained(t *testing.T) {
	doc, err := os.ReadFile("../../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := map[string]bool{}
	for path := range strings.Lines(string(out)) {
		path = strings.TrimSpace(path)
		if path == "k8s.io/client-go/informers" {
			t.Error("k8s.io/client-go/informers is imported: it makes the binary 8 MB larger, use internal/client/informers")
		}
		host, _, _ := strings.Cut(path, "/")
		if !strings.Contains(host, ".") || strings.HasPrefix(path, "github.com/celox/") {
			continue
		}
		parts := strings.Split(path, "/")
		module := strings.Join(parts[:min(len(parts), 2)], "/")
		word := module
		if host == "github.com" || host == "golang.org" && len(parts) > 2 {
			module = strings.Join(parts[:min(len(parts), 3)], "/")
			word = parts[min(len(parts), 3)-1] // "github.com/opencontainers/runc, cgroups" names both
		}
		if seen[module] {
			continue
		}
		seen[module] = true
		if !strings.Contains(string(doc), module) && !(strings.Contains(string(doc), parts[0]+"/"+parts[1]) && strings.Contains(string(doc), word)) {
			t.Errorf("%s is imported, but docs/dependencies.md does not say why", module)
		}
	}
}
