package imagelogin

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// The API groups of the file and of what plugins are told.
const (
	configGroup = "kubelet.config.k8s.io/"
	pluginGroup = "credentialprovider.kubelet.k8s.io/"
)

// versions are those of both groups, the newest first; they differ in nothing but that tokens need the first.
func versions() []string { return []string{"v1", "v1beta1", "v1alpha1"} }

// What logins got with a token are kept for.
const (
	perToken   = "Token"
	perAccount = "ServiceAccount"
)

// file is a CredentialProviderConfig.
type file struct {
	Kind       string     `json:"kind"`
	APIVersion string     `json:"apiVersion"`
	Providers  []settings `json:"providers"`
}

// settings are what the file says of one provider.
type settings struct {
	Name                 string           `json:"name"`
	MatchImages          []string         `json:"matchImages"`
	DefaultCacheDuration *metav1.Duration `json:"defaultCacheDuration"`
	APIVersion           string           `json:"apiVersion"`
	Args                 []string         `json:"args"`
	Env                  []variable       `json:"env"`
	TokenAttributes      *tokenSettings   `json:"tokenAttributes"`
}

type variable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// tokenSettings ask for tokens of pods' service accounts.
type tokenSettings struct {
	Audience              string   `json:"serviceAccountTokenAudience"`
	CacheType             string   `json:"cacheType"`
	RequireServiceAccount *bool    `json:"requireServiceAccount"`
	RequiredAnnotations   []string `json:"requiredServiceAccountAnnotationKeys"`
	OptionalAnnotations   []string `json:"optionalServiceAccountAnnotationKeys"`
}

// read reads a file, or those of a directory in the order of their names, and the hash of all.
func read(path string) ([]settings, string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, "", err
	}
	files := []string{path}
	if info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, "", err
		}
		files = nil
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".json" || ext == ".yaml" || ext == ".yml") {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
		if len(files) == 0 {
			return nil, "", fmt.Errorf("%s has no .json, .yaml or .yml file", path)
		}
	}
	var all []settings
	sum := sha256.New()
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, "", err
		}
		// With the length before it, no two sets of files have the same hash.
		sum.Write(binary.BigEndian.AppendUint64(nil, uint64(len(data))))
		sum.Write(data)
		var f file
		if err := yaml.UnmarshalStrict(data, &f); err != nil {
			return nil, "", fmt.Errorf("%s: %w", name, err)
		}
		if version, ok := strings.CutPrefix(f.APIVersion, configGroup); !ok || !slices.Contains(versions(), version) || f.Kind != "CredentialProviderConfig" {
			return nil, "", fmt.Errorf("%s: this is a %q of %q: use a CredentialProviderConfig of %sv1", name, f.Kind, f.APIVersion, configGroup)
		}
		all = append(all, f.Providers...)
	}
	return all, "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// validate checks what files say.
func validate(all []settings) error {
	var errs problems
	if len(all) == 0 {
		errs.add("providers", "name at least one")
	}
	seen := map[string]bool{}
	for i := range all {
		s := &all[i]
		errs.at = fmt.Sprintf("providers[%d].", i)
		if s.Name == "" || s.Name == "." || s.Name == ".." || strings.ContainsAny(s.Name, "/ ") {
			errs.add("name", "%q must be the name of a program, without directory and spaces", s.Name)
		}
		if seen[s.Name] {
			errs.add("name", "%q is there twice", s.Name)
		}
		seen[s.Name] = true
		if version, ok := strings.CutPrefix(s.APIVersion, pluginGroup); !ok || !slices.Contains(versions(), version) {
			errs.add("apiVersion", "%q is not known: use %sv1", s.APIVersion, pluginGroup)
		}
		if len(s.MatchImages) == 0 {
			errs.add("matchImages", "name at least one")
		}
		for _, pattern := range s.MatchImages {
			if _, _, _, err := split(pattern); err != nil {
				errs.add("matchImages", "%v", err)
			}
		}
		if d := s.DefaultCacheDuration; d == nil || d.Duration < 0 {
			errs.add("defaultCacheDuration", "give a time that is not negative, like 12h or 0s")
		}
		if t := s.TokenAttributes; t != nil {
			errs.at += "tokenAttributes."
			if s.APIVersion != pluginGroup+"v1" {
				errs.add("apiVersion", "tokens need that of the provider to be %sv1", pluginGroup)
			}
			t.validate(&errs)
		}
	}
	return errors.Join(errs.all...)
}

func (t *tokenSettings) validate(errs *problems) {
	if t.Audience == "" {
		errs.add("serviceAccountTokenAudience", "is missing")
	}
	if t.RequireServiceAccount == nil {
		errs.add("requireServiceAccount", "use true or false")
	} else if !*t.RequireServiceAccount && len(t.RequiredAnnotations) > 0 {
		errs.add("requiredServiceAccountAnnotationKeys", "need requireServiceAccount: true")
	}
	if t.CacheType != perToken && t.CacheType != perAccount {
		errs.add("cacheType", "%q is not known: use %s or %s", t.CacheType, perAccount, perToken)
	}
	seen := map[string]bool{}
	for _, k := range slices.Concat(t.RequiredAnnotations, t.OptionalAnnotations) {
		// Annotations, unlike labels, may have capitals in the part that is a domain.
		if m := validation.IsQualifiedName(strings.ToLower(k)); len(m) > 0 {
			errs.add("annotation keys", "%q: %s", k, m[0])
		}
		if seen[k] {
			errs.add("annotation keys", "%q is there twice", k)
		}
		seen[k] = true
	}
}

// problems are what is wrong with a configuration.
type problems struct {
	at  string // where we are
	all []error
}

func (p *problems) add(key, format string, args ...any) {
	p.all = append(p.all, fmt.Errorf("%s%s: %s", p.at, key, fmt.Sprintf(format, args...)))
}

// program finds the program of a provider.
func program(dir, name string) (string, error) {
	path, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		return "", err
	}
	if _, err := exec.LookPath(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no program %s", path)
	} else if err != nil {
		return "", err
	}
	return path, nil
}
