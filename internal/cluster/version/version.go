package version

import (
	"fmt"
	"runtime"

	apiversion "k8s.io/apimachinery/pkg/version"
)

// Build is set by the linker to what git describes.
var Build = "dev"

// Kubernetes is the API version that Celox speaks; Major and Minor are its parts.
const (
	Kubernetes = "v1.37.2"
	Major      = "1"
	Minor      = "37"
)

// Git is the version that servers and nodes report: a Kubernetes version, so that clients can compare it, with Celox as its build.
func Git() string { return Kubernetes + "+celox" }

// Info is what /version answers.
func Info() apiversion.Info {
	return apiversion.Info{
		Major: Major, Minor: Minor, EmulationMajor: Major, EmulationMinor: Minor, MinCompatibilityMajor: Major, MinCompatibilityMinor: "36",
		GitVersion: Git(), GitCommit: Build, GitTreeState: "clean", BuildDate: "1970-01-01T00:00:00Z",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: fmt.Sprintf("%s/%s", runtime.GOOS, runtime.GOARCH),
	}
}
