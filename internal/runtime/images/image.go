package images

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Config is what Open needs.
type Config struct {
	// Root is the directory of the store; it is made if it doesn't exist.
	Root string
	// Registries says how registries are reached.
	Registries Registries
	// Platform chooses from images for several platforms, as "os/architecture[/variant]"; empty means this machine.
	Platform string
	// Limits bounds what is accepted; zero fields have defaults.
	Limits Limits
	Log    *slog.Logger
}

// Registries says how registries are reached. The zero value reaches any registry over HTTPS, and those on loopback over plain
// HTTP when they don't speak TLS.
type Registries struct {
	// Mirrors are tried in order before the registry itself. Keys are registries as references name them ("docker.io",
	// "localhost:5000", or "*" for all others), values are "host[:port][/prefix]", optionally with "http://" or "https://" before it.
	Mirrors map[string][]string
	// Insecure are hosts ("host" or "host:port") that may be reached over plain HTTP or with a certificate nobody vouches for.
	Insecure []string
	// CAFiles are PEM files that are trusted, besides the system's, for a host; "*" for every host.
	CAFiles map[string]string
}

// Limits bounds what images may contain.
type Limits struct {
	// LayerBytes is the most that one layer may hold when unpacked; 64 GiB by default.
	LayerBytes int64
	// LayerEntries is the most files that one layer may hold; 4 million by default.
	LayerEntries int64
	// ArchiveBytes is the most that an imported archive may hold (uncompressed); 256 GiB by default.
	ArchiveBytes int64
	// ParallelLayers is how many layers of one image are fetched at once; 3 by default.
	ParallelLayers int
}

// Auth is a login to a registry. The zero value is anonymous.
type Auth struct {
	Username, Password string
	// Auth is base64 of "username:password".
	Auth string
	// IdentityToken is exchanged for a token at the registry's token server; RegistryToken is a bearer token as it is.
	IdentityToken, RegistryToken string
	// ServerAddress, if set, is the only registry that the login is for.
	ServerAddress string
}

// Image is one image of the store. It is a copy; callers may keep it.
type Image struct {
	// ID is the digest of the image's config, "sha256:...".
	ID string
	// RepoTags ("docker.io/library/nginx:latest") and RepoDigests ("docker.io/library/nginx@sha256:...") are its names, sorted.
	RepoTags, RepoDigests []string
	// Size is what the image's unpacked layers and its config take, in bytes.
	Size   int64
	Config ImageConfig
	// Created is when the image was built, Pulled when this store got it.
	Created, Pulled time.Time
	Platform        string
}

// ImageConfig is the part of an image's config that says how to run it (OCI image specification, "config").
type ImageConfig struct {
	Env, Entrypoint, Cmd []string
	User, WorkingDir     string
	Labels               map[string]string
	StopSignal           string
	Volumes              map[string]struct{}
	ExposedPorts         map[string]struct{}
}

// Stage is what is being done with a layer or an archive.
type Stage string

// The stages of a Progress.
const (
	StageResolving Stage = "resolving" // the reference is being looked up
	StageWaiting   Stage = "waiting"   // a layer of Total compressed bytes is about to be looked for; said of all before anything of any
	StagePulling   Stage = "pulling"   // a layer is being fetched and unpacked: Current of Total compressed bytes
	StageReading   Stage = "reading"   // an archive is being read: Current bytes, Total unknown (0)
	StageExists    Stage = "exists"    // the layer was there already
	StageDone      Stage = "done"      // the layer, or (without a Layer) the image, is complete
)

// Progress is one step of a Pull or an Import. It is reported from several goroutines, never two at once.
type Progress struct {
	Ref            string
	Stage          Stage
	Layer          string // digest of the layer; empty for the image as a whole
	Current, Total int64
}

// Rootfs is what a container's root file system is mounted from (see package overlay).
type Rootfs struct {
	// Lower are the image's layers, topmost first, as overlayfs wants them.
	Lower []string
	// Upper and Work are the container's own directories.
	Upper, Work string
}

// FSInfo is what the store takes of its file system.
type FSInfo struct {
	Root                  string
	UsedBytes, UsedInodes uint64
	// CapacityBytes and AvailableBytes are the file system's.
	CapacityBytes, AvailableBytes uint64
	CapacityInodes, FreeInodes    uint64
}

// Kind is a class of errors that a caller acts on.
type Kind int

// The kinds; new ones are appended.
const (
	KindOther        Kind = iota
	KindNotFound          // no such image, here or in the registry
	KindUnauthorized      // the registry wants another login
	KindUnavailable       // the registry can't be reached, or not now
	KindCorrupt           // a digest doesn't match, or the content is not what it says
	KindInvalid           // the reference, the archive or the image is not acceptable
	KindConflict          // the store is owned by another process
	KindNoSpace           // the disk is full
)

// Error is an error of this package that has a Kind.
type Error struct {
	Kind Kind
	// Op says what failed, with the reference: `failed to pull image "docker.io/library/x:latest"`.
	Op  string
	Err error
}

func (e *Error) Error() string {
	if e.Op == "" {
		return e.Err.Error()
	}
	return e.Op + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the outermost Error in err's chain, or KindOther.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindOther
}

// IsNotFound says whether err is about an image that doesn't exist.
func IsNotFound(err error) bool { return KindOf(err) == KindNotFound }

func errorf(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Err: fmt.Errorf(format, args...)}
}
