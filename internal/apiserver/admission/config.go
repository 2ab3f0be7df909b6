package admission

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"sigs.k8s.io/yaml"

	"github.com/celox/celox/internal/apiserver/webhook"
)

// Configuration is what an AdmissionConfiguration says of the plugins that take one.
type Configuration struct {
	PodSecurity *PodSecurityConfig // nil: nothing
	// LimitedResources are what nobody may use without a quota.
	LimitedResources []LimitedResource
	// MutatingWebhooks and ValidatingWebhooks say who the server is towards webhooks; nil is nobody.
	MutatingWebhooks, ValidatingWebhooks *webhook.Identities
}

// configurationVersions are the versions of the file; they have one shape.
var configurationVersions = []string{"apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"}

// configurationFile is an AdmissionConfiguration.
type configurationFile struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Plugins    []struct {
		Name          string          `json:"name"`
		Path          string          `json:"path"`
		Configuration json.RawMessage `json:"configuration"`
	} `json:"plugins"`
}

// LoadConfiguration reads an AdmissionConfiguration (apiserver.config.k8s.io/v1), and the files that it names: their paths are relative
// to its own.
func LoadConfiguration(path string) (c Configuration, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	var file configurationFile
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return c, fmt.Errorf("reading %s: %w", path, err)
	}
	if file.Kind != "AdmissionConfiguration" || !slices.Contains(configurationVersions, file.APIVersion) {
		return c, fmt.Errorf("%s: %q of %q is no AdmissionConfiguration of %s", path, file.Kind, file.APIVersion, configurationVersions[0])
	}
	seen := map[string]bool{}
	for _, p := range file.Plugins {
		if seen[p.Name] {
			return c, fmt.Errorf("%s: the plugin %s is there twice", path, p.Name)
		}
		seen[p.Name] = true
		own, dir := []byte(p.Configuration), filepath.Dir(path)
		if len(own) == 0 && p.Path != "" {
			at := p.Path
			if !filepath.IsAbs(at) {
				at = filepath.Join(filepath.Dir(path), at)
			}
			if own, err = os.ReadFile(at); err != nil {
				return c, fmt.Errorf("configuration of %s: %w", p.Name, err)
			}
			dir = filepath.Dir(at)
		}
		if len(own) == 0 {
			continue
		}
		switch p.Name {
		case "PodSecurity":
			c.PodSecurity, err = readPodSecurity(own)
		case "ResourceQuota":
			c.LimitedResources, err = readQuota(own)
		case "MutatingAdmissionWebhook":
			c.MutatingWebhooks, err = readWebhooks(own, dir)
		case "ValidatingAdmissionWebhook":
			c.ValidatingWebhooks, err = readWebhooks(own, dir)
		default:
			return c, fmt.Errorf("%s: the plugin %q takes no configuration", path, p.Name)
		}
		if err != nil {
			return c, fmt.Errorf("configuration of %s: %w", p.Name, err)
		}
	}
	return c, nil
}
