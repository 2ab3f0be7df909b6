package images

import (
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// platform is what images must be made for.
type platform struct{ os, arch, variant string }

func parsePlatform(s string) (platform, error) {
	if s == "" {
		return platform{os: runtime.GOOS, arch: runtime.GOARCH}, nil
	}
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return platform{}, errorf(KindInvalid, "platform %q: want os/architecture[/variant]", s)
	}
	p := platform{os: parts[0], arch: parts[1]}
	if len(parts) == 3 {
		p.variant = parts[2]
	}
	return p, nil
}

func (p platform) String() string {
	s := p.os + "/" + p.arch
	if p.variant != "" {
		s += "/" + p.variant
	}
	return s
}

func (p platform) v1() v1.Platform {
	return v1.Platform{OS: p.os, Architecture: p.arch, Variant: p.variant}
}

// matches says whether an image for another platform can be used; what an image doesn't say is taken to fit.
func (p platform) matches(os, arch, variant string) bool {
	return (os == "" || os == p.os) && (arch == "" || arch == p.arch) && (p.variant == "" || variant == "" || variant == p.variant)
}

// choose returns the descriptors of an index that are for the platform; manifests that say they are for none (attestations) aren't.
func (p platform) choose(all []v1.Descriptor) []v1.Descriptor {
	var out []v1.Descriptor
	for _, d := range all {
		if d.Platform == nil || p.matches(d.Platform.OS, d.Platform.Architecture, d.Platform.Variant) {
			out = append(out, d)
		}
	}
	return out
}
