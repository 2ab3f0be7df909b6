package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/atomicfile"
	"github.com/celox/celox/internal/runtime/holder"
	"github.com/celox/celox/internal/runtime/images"
)

// layout names the files of a runtime directory.
type layout string

func (l layout) sandboxes() string           { return filepath.Join(string(l), "sandboxes") }
func (l layout) containers() string          { return filepath.Join(string(l), "containers") }
func (l layout) sandbox(id string) string    { return filepath.Join(l.sandboxes(), id+".json") }
func (l layout) container(id string) string  { return filepath.Join(l.containers(), id+".json") }
func (l layout) settings() string            { return filepath.Join(string(l), "runtime.json") }
func (l layout) run() string                 { return filepath.Join(string(l), "run") }
func (l layout) holder() holder.Layout       { return holder.Layout(l.run()) }
func (l layout) sandboxRun(id string) string { return filepath.Join(l.run(), "sandboxes", id) }
func (l layout) namespace(id, ns string) string {
	return filepath.Join(l.sandboxRun(id), "ns", ns)
}
func (l layout) shm(id string) string          { return filepath.Join(l.sandboxRun(id), "shm") }
func (l layout) containerRun(id string) string { return filepath.Join(l.run(), "containers", id) }
func (l layout) rootfs(id string) string       { return filepath.Join(l.containerRun(id), "rootfs") }

// phase says where a record is in its life.
type phase string

const (
	phaseCreating phase = "creating" // resources may be half-made
	phaseReady    phase = "ready"    // of a sandbox
	phaseNotReady phase = "notready" // of a sandbox: stopped
	phaseCreated  phase = "created"  // of a container: the holder knows if it runs
	phaseExited   phase = "exited"   // of a container
)

// sandboxRecord is the durable form of a pod sandbox.
type sandboxRecord struct {
	ID        string       `json:"id"`
	Phase     phase        `json:"phase"`
	CreatedAt time.Time    `json:"createdAt"`
	Handler   string       `json:"handler,omitempty"`
	IPs       []netip.Addr `json:"ips,omitempty"`
	Cgroup    string       `json:"cgroup"` // parent of the containers' cgroups
	// BootID is the kernel's: after a reboot the namespaces are gone.
	BootID string `json:"bootID"`
	// Config is the CRI PodSandboxConfig as protobuf.
	Config []byte `json:"config"`
}

// containerRecord is the durable form of a container.
type containerRecord struct {
	ID          string             `json:"id"`
	SandboxID   string             `json:"sandboxID"`
	Phase       phase              `json:"phase"`
	CreatedAt   time.Time          `json:"createdAt"`
	StartedAt   time.Time          `json:"startedAt,omitzero"`
	FinishedAt  time.Time          `json:"finishedAt,omitzero"`
	ExitCode    int32              `json:"exitCode,omitempty"`
	Reason      string             `json:"reason,omitempty"`
	Message     string             `json:"message,omitempty"`
	BootID      string             `json:"bootID"`
	ImageID     string             `json:"imageID"`
	ImageRef    string             `json:"imageRef"`
	ImageConfig images.ImageConfig `json:"imageConfig"`
	LogPath     string             `json:"logPath,omitempty"`
	User        user               `json:"user"`
	// DeviceEnv is the whole environment where devices have a part in it (CDI), so that what is run in the container later has it too.
	DeviceEnv []string `json:"deviceEnv,omitempty"`
	// Config is the CRI ContainerConfig as protobuf.
	Config []byte `json:"config"`
}

// writeRecord replaces a file in one step. It is not synced to the disk: what a
// power failure cuts short is noticed when it is read, and removed.
func writeRecord(path string, record any) error {
	data, err := json.Marshal(record)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, data, 0o600, atomicfile.Unsynced)
}

// readRecords calls f with each record below dir; what cannot be read is
// reported to bad and left out.
func readRecords[R any](dir string, f func(id string, r R), bad func(id string, err error)) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			_ = os.Remove(filepath.Join(dir, e.Name())) // the rest of a cut-off write
			continue
		}
		var r R
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err == nil {
			err = json.Unmarshal(data, &r)
		}
		if err != nil {
			bad(id, err)
			continue
		}
		f(id, r)
	}
	return nil
}

func marshalConfig(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

func (r *sandboxRecord) config() (*cri.PodSandboxConfig, error) {
	c := &cri.PodSandboxConfig{}
	if err := proto.Unmarshal(r.Config, c); err != nil {
		return nil, fmt.Errorf("configuration of pod sandbox %s: %w", r.ID, err)
	}
	return c, nil
}

func (r *containerRecord) config() (*cri.ContainerConfig, error) {
	c := &cri.ContainerConfig{}
	if err := proto.Unmarshal(r.Config, c); err != nil {
		return nil, fmt.Errorf("configuration of container %s: %w", r.ID, err)
	}
	return c, nil
}
