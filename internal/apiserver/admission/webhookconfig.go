package admission

import (
	"fmt"
	"path/filepath"
	"slices"

	"sigs.k8s.io/yaml"

	"github.com/celox/celox/internal/apiserver/webhook"
)

// webhookVersions are the versions of the configuration; they have one shape, and the kind has two names.
var webhookVersions = []string{"apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1alpha1"}

// readWebhooks reads a WebhookAdmissionConfiguration, as YAML or JSON, and the kubeconfig that it names, whose path is relative to dir.
func readWebhooks(data []byte, dir string) (*webhook.Identities, error) {
	var file struct {
		APIVersion     string `json:"apiVersion"`
		Kind           string `json:"kind"`
		KubeConfigFile string `json:"kubeConfigFile"`
	}
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return nil, err
	}
	if !slices.Contains(webhookVersions, file.APIVersion) || file.Kind != "WebhookAdmissionConfiguration" && file.Kind != "WebhookAdmission" {
		return nil, fmt.Errorf("%q of %q is no WebhookAdmissionConfiguration of %s", file.Kind, file.APIVersion, webhookVersions[0])
	}
	if file.KubeConfigFile == "" {
		return nil, nil
	}
	if !filepath.IsAbs(file.KubeConfigFile) {
		file.KubeConfigFile = filepath.Join(dir, file.KubeConfigFile)
	}
	return webhook.ReadIdentities(file.KubeConfigFile)
}
