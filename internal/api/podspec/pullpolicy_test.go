package podspec

import "testing"

// FuzzPullPolicy: what is decided by looking at the end of a name is what parsing it says.
func FuzzPullPolicy(f *testing.F) {
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, image := range []string{
		"", ":", "@", "/", "nginx", "nginx:", "nginx:latest", "nginx:1.27", "nginx@" + digest, "nginx:latest@" + digest, "nginx:1.27@" + digest, "nginx@", "nginx:latest@", "nginx:1@",
		"example.com:5000/nginx", "example.com:5000/nginx:latest", "example.com:5000/a/b:v1", "example.com:5000", "localhost:latest", "[::1]:5000/nginx", "[::1]/nginx:latest",
		"UPPER", "UPPER:latest", "UPPER:1", "a:b:c", "a:b:latest", "a/b:latest/c", "nginx:lat est", "nginx:latest ", " nginx", "nginx@sha256:latest", "a@b@c", "nginx:@" + digest,
		"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
	} {
		f.Add(image)
	}
	f.Fuzz(func(t *testing.T, image string) {
		if got, want := pullPolicy(image), parsedPullPolicy(image); got != want {
			t.Errorf("%q: %s, want %s", image, got, want)
		}
	})
}
