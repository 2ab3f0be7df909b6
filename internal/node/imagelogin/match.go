package imagelogin

import (
	"net"
	"net/url"
	"path"
	"strings"
)

// dockerHub is what the default registry is called in files of credentials, and defaultRegistry in names of images.
const (
	dockerHub       = "index.docker.io"
	defaultRegistry = "docker.io"
)

// split takes a name or a pattern host[:port][/path] apart.
func split(name string) (host, port, rest string, err error) {
	u, err := url.Parse("https://" + name)
	if err != nil {
		return "", "", "", err
	}
	if h, p, err := net.SplitHostPort(u.Host); err == nil {
		return h, p, u.Path, nil
	}
	return u.Host, "", u.Path, nil
}

// matches says whether a pattern is for an image, which is named without tag and digest: the port is the same, the pattern's path is what the image's begins
// with, and the hosts have as many parts, of which those of the pattern may have the signs of path.Match.
func matches(pattern, image string) bool {
	wantHost, wantPort, wantPath, err := split(pattern)
	if err != nil {
		return false
	}
	host, port, rest, err := split(image)
	if err != nil || port != wantPort || !strings.HasPrefix(rest, wantPath) {
		return false
	}
	want, have := strings.Split(wantHost, "."), strings.Split(host, ".")
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], have[i]); !ok || err != nil {
			return false
		}
	}
	return true
}

// patternOf is the pattern that a key of an answer stands for: the old ways of naming a whole registry by its API are understood.
func patternOf(key string) string {
	host, rest, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://"), "/")
	if rest = "/" + rest; strings.HasPrefix(rest, "/v1/") || strings.HasPrefix(rest, "/v2/") {
		rest = rest[len("/v1"):]
	}
	if rest == "/" {
		return host
	}
	return host + rest
}

// registryOf is the registry of an image.
func registryOf(image string) string {
	registry, _, _ := strings.Cut(image, "/")
	return registry
}
