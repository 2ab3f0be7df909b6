package imagepull

import (
	"encoding/base64"
	"encoding/json"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// dockerHub is what the default registry is called in credential files.
const dockerHub = "index.docker.io"

type credential struct {
	pattern string // host[:port][/path], parts of the host may be *
	auth    *runtimeapi.AuthConfig
	from    source
}

type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// credentials reads pull secrets; one that cannot be read is skipped, as if it weren't there.
func credentials(secrets []*corev1.Secret) []credential {
	var out []credential
	for _, s := range secrets {
		auths := map[string]dockerAuth{}
		switch {
		case len(s.Data[corev1.DockerConfigJsonKey]) > 0:
			var file struct {
				Auths map[string]dockerAuth `json:"auths"`
			}
			if json.Unmarshal(s.Data[corev1.DockerConfigJsonKey], &file) != nil {
				continue
			}
			auths = file.Auths
		case len(s.Data[corev1.DockerConfigKey]) > 0:
			if json.Unmarshal(s.Data[corev1.DockerConfigKey], &auths) != nil {
				continue
			}
		}
		for server, a := range auths {
			user, password := a.Username, a.Password
			if raw, err := base64.StdEncoding.DecodeString(a.Auth); err == nil && len(raw) > 0 {
				if u, p, ok := strings.Cut(string(raw), ":"); ok {
					user, password = u, strings.TrimRight(p, "\x00")
				}
			}
			auth := &runtimeapi.AuthConfig{Username: user, Password: password, ServerAddress: server, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
			out = append(out, credential{normalize(server), auth, source{secret: identify(s, auth)}})
		}
	}
	// The most specific pattern is tried first.
	sort.SliceStable(out, func(i, j int) bool { return len(out[i].pattern) > len(out[j].pattern) })
	return out
}

func normalize(server string) string {
	server = strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	server = strings.TrimSuffix(server, "/")
	for _, v := range []string{"/v1", "/v2"} {
		server = strings.TrimSuffix(server, v)
	}
	if server == "docker.io" || server == "registry-1.docker.io" {
		return dockerHub
	}
	return server
}

// matching lists the credentials for an image, given as registry/path.
func matching(all []credential, image string) []credential {
	host, rest, _ := strings.Cut(image, "/")
	if host == "docker.io" {
		host = dockerHub
	}
	var out []credential
	for _, c := range all {
		patternHost, patternPath, _ := strings.Cut(c.pattern, "/")
		if hostMatches(patternHost, host) && (patternPath == "" || rest == patternPath || strings.HasPrefix(rest, patternPath+"/")) {
			out = append(out, c)
		}
	}
	return out
}

func hostMatches(pattern, host string) bool {
	ph, pp, _ := strings.Cut(pattern, ":")
	hh, hp, _ := strings.Cut(host, ":")
	if pp != hp {
		return false
	}
	a, b := strings.Split(ph, "."), strings.Split(hh, ".")
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != "*" && !strings.EqualFold(a[i], b[i]) {
			return false
		}
	}
	return true
}
