package volume

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/node/downward"
)

// Sources gives the objects that volumes are made of. Errors are the API's own.
type Sources interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// Config is what a Manager is given.
type Config struct {
	Root    string // pods/<uid> and memory/<uid> are made below
	Client  kubernetes.Interface
	Sources Sources
	// Certificates may be nil where no pod projects any.
	Certificates Certificates
	NodeName     string
	// Event warns of a pod's volume; nil: nobody is told.
	Event   func(pod *corev1.Pod, reason, message string)
	Mounter Mounter
	Node    func(*corev1.Pod) downward.Node
	Clock   clock.Clock
}

// Manager keeps the pods' volumes. Its methods are safe for concurrent use by different pods.
type Manager struct {
	root    string
	client  kubernetes.Interface
	sources Sources
	mounter Mounter
	node    func(*corev1.Pod) downward.Node
	clock   clock.Clock

	certificates Certificates
	nodeName     string
	event        func(pod *corev1.Pod, reason, message string)
	seed         maphash.Seed // of the order of trust anchors

	memoryOnce sync.Mutex
	memoryDone bool // the node's tmpfs is mounted; guarded by memoryOnce

	mu     sync.Mutex
	tokens map[types.UID]map[tokenKey]token              // guarded by mu
	claims map[types.UID]map[string]bound                // volumes of claims that are ready, by the pod's name for them; guarded by mu
	issued map[types.UID]map[certificateKey]*certificate // guarded by mu
}

// New makes a Manager.
func New(c Config) *Manager {
	if c.Mounter == nil {
		c.Mounter = Kernel{}
	}
	if c.Event == nil {
		c.Event = func(*corev1.Pod, string, string) {}
	}
	return &Manager{
		root: c.Root, client: c.Client, sources: c.Sources, mounter: c.Mounter, node: c.Node, clock: c.Clock,
		certificates: c.Certificates, nodeName: c.NodeName, event: c.Event, seed: maphash.MakeSeed(),
		tokens: map[types.UID]map[tokenKey]token{}, claims: map[types.UID]map[string]bound{}, issued: map[types.UID]map[certificateKey]*certificate{},
	}
}

// Error says which volume failed.
type Error struct {
	Volume string
	Err    error
}

func (e *Error) Error() string {
	var claim *claimError
	var volume *volumeError
	switch {
	case errors.As(e.Err, &claim):
		return fmt.Sprintf("Unable to attach or mount volumes: unmounted volumes=[%s], unattached volumes=[], failed to process volumes=[%s]: %v", e.Volume, e.Volume, claim)
	case errors.As(e.Err, &volume):
		return volume.Error()
	}
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// PodDir holds everything of one pod on disk.
func (m *Manager) PodDir(uid types.UID) string { return filepath.Join(m.root, "pods", string(uid)) }

func (m *Manager) memoryDir() string { return filepath.Join(m.root, "memory") }

// dir is where a volume lives; "" for those that live elsewhere.
func (m *Manager) dir(pod *corev1.Pod, v *corev1.Volume) string {
	plugin, memory := "", false
	switch {
	case v.EmptyDir != nil:
		plugin = "empty-dir"
	case v.ConfigMap != nil:
		plugin = "configmap"
	case v.DownwardAPI != nil:
		plugin = "downward-api"
	case v.Secret != nil:
		plugin, memory = "secret", true
	case v.Projected != nil:
		plugin, memory = "projected", true
	default:
		return ""
	}
	if memory {
		return filepath.Join(m.memoryDir(), string(pod.UID), "kubernetes.io~"+plugin, v.Name)
	}
	return filepath.Join(m.PodDir(pod.UID), "volumes", "kubernetes.io~"+plugin, v.Name)
}

// Setup makes every volume of the pod be as it should: it is called before the pod starts, and again when the pod or an
// object that it uses changed. It returns when it wants to be called next because a token ages; zero: never. The error
// joins one *Error per volume that failed.
func (m *Manager) Setup(ctx context.Context, pod *corev1.Pod) (next time.Time, _ error) {
	if err := os.MkdirAll(m.PodDir(pod.UID), 0o750); err != nil {
		return time.Time{}, err
	}
	var errs []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		again, err := m.setup(ctx, pod, v)
		if err != nil {
			errs = append(errs, &Error{v.Name, err})
			continue
		}
		if !again.IsZero() && (next.IsZero() || again.Before(next)) {
			next = again
		}
	}
	return next, errors.Join(errs...)
}

func (m *Manager) setup(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (time.Time, error) {
	switch {
	case v.EmptyDir != nil:
		return time.Time{}, m.emptyDir(pod, v)
	case v.HostPath != nil:
		return time.Time{}, hostPath(v.HostPath)
	case v.PersistentVolumeClaim != nil || v.Ephemeral != nil:
		b, err := m.claimed(ctx, pod, v)
		if err == nil {
			err = checkModes(pod, v, b)
		}
		return time.Time{}, err
	case v.Image != nil:
		return time.Time{}, nil // the runtime mounts it
	case v.ConfigMap == nil && v.Secret == nil && v.DownwardAPI == nil && v.Projected == nil:
		return time.Time{}, fmt.Errorf("this node has no way to mount a volume of type %s", typeName(v))
	}

	b := &build{m: m, pod: pod, volume: v.Name, payload: Payload{}, gid: fsGroup(pod), uid: commonUser(pod)}
	var err error
	switch {
	case v.ConfigMap != nil:
		err = b.configMap(ctx, v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.DefaultMode, v.ConfigMap.Optional)
	case v.Secret != nil:
		err = b.secret(ctx, v.Secret.SecretName, v.Secret.Items, v.Secret.DefaultMode, v.Secret.Optional)
	case v.DownwardAPI != nil:
		err = b.downward(v.DownwardAPI.Items, v.DownwardAPI.DefaultMode)
	case v.Projected != nil:
		err = b.projected(ctx, v.Projected)
	}
	if err != nil {
		return time.Time{}, err
	}
	dir := m.dir(pod, v)
	if v.Secret != nil || v.Projected != nil {
		if err := m.ensureMemory(); err != nil {
			return time.Time{}, err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return time.Time{}, err
	}
	if b.gid != nil {
		if err := os.Chown(dir, -1, int(*b.gid)); err != nil {
			return time.Time{}, err
		}
		if err := os.Chmod(dir, 0o755|os.ModeSetgid); err != nil {
			return time.Time{}, err
		}
	}
	_, err = writeAtomic(dir, b.payload, b.gid)
	return b.refresh, err
}

// ensureMemory mounts the node's tmpfs for secrets.
func (m *Manager) ensureMemory() error {
	m.memoryOnce.Lock()
	defer m.memoryOnce.Unlock()
	if m.memoryDone {
		return nil
	}
	dir := m.memoryDir()
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	points, err := m.mounter.Below(dir)
	if err != nil {
		return err
	}
	if len(points) == 0 {
		if err := m.mounter.Tmpfs(dir, "mode=0711"); err != nil {
			return err
		}
	}
	m.memoryDone = true
	return nil
}

func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// commonUser is the user that all containers of the pod run as, if they all say so and agree.
func commonUser(pod *corev1.Pod) *int64 {
	var podUser, user *int64
	if pod.Spec.SecurityContext != nil {
		podUser = pod.Spec.SecurityContext.RunAsUser
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			u := podUser
			if sc := list[i].SecurityContext; sc != nil && sc.RunAsUser != nil {
				u = sc.RunAsUser
			}
			if u == nil || user != nil && *user != *u {
				return nil
			}
			user = u
		}
	}
	return user
}

func (m *Manager) emptyDir(pod *corev1.Pod, v *corev1.Volume) error {
	dir := m.dir(pod, v)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	switch v.EmptyDir.Medium {
	case corev1.StorageMediumDefault:
	case corev1.StorageMediumMemory:
		points, err := m.mounter.Below(dir)
		if err != nil {
			return err
		}
		if len(points) == 0 {
			options := "mode=0777"
			if limit := memoryLimit(pod, v); limit > 0 {
				options += fmt.Sprintf(",size=%d", limit)
			}
			if err := m.mounter.Tmpfs(dir, options); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("this node has no emptyDir of medium %q", v.EmptyDir.Medium)
	}
	mode := os.FileMode(0o777)
	if v.EmptyDir.Medium == corev1.StorageMediumMemory {
		mode |= os.ModeSticky // as the kernel makes such a file system
	}
	if gid := fsGroup(pod); gid != nil {
		mode |= os.ModeSetgid
		if err := os.Chown(dir, -1, int(*gid)); err != nil {
			return err
		}
	}
	return os.Chmod(dir, mode)
}

// memoryLimit is the size of a memory-backed emptyDir: its own limit, and not more than the pod's memory limit. 0: the
// kernel's default, half of the memory.
func memoryLimit(pod *corev1.Pod, v *corev1.Volume) int64 {
	var limit int64
	if v.EmptyDir.SizeLimit != nil {
		limit = v.EmptyDir.SizeLimit.Value()
	}
	var sum int64
	for i := range pod.Spec.Containers {
		q, ok := pod.Spec.Containers[i].Resources.Limits[corev1.ResourceMemory]
		if !ok || q.IsZero() {
			return limit
		}
		sum += q.Value()
	}
	if sum > 0 && (limit == 0 || sum < limit) {
		return sum
	}
	return limit
}

// Teardown unmounts and removes everything of the pod.
func (m *Manager) Teardown(uid types.UID) error {
	m.mu.Lock()
	m.forget(uid)
	m.mu.Unlock()
	return errors.Join(
		removeTree(m.mounter, m.PodDir(uid)),
		removeTree(m.mounter, filepath.Join(m.memoryDir(), string(uid))),
	)
}

// TeardownVolumes removes the volumes of a pod that has ended but is kept in the API; its other files stay.
func (m *Manager) TeardownVolumes(uid types.UID) error {
	m.mu.Lock()
	m.forget(uid)
	m.mu.Unlock()
	return errors.Join(
		removeTree(m.mounter, filepath.Join(m.PodDir(uid), "volume-subpaths")),
		removeTree(m.mounter, filepath.Join(m.PodDir(uid), "volumes")),
		removeTree(m.mounter, filepath.Join(m.memoryDir(), string(uid))),
	)
}

// Pods lists the pods that have files on this node.
func (m *Manager) Pods() []types.UID {
	seen := map[types.UID]bool{}
	var out []types.UID
	for _, dir := range []string{filepath.Join(m.root, "pods"), m.memoryDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if uid := types.UID(e.Name()); e.IsDir() && !seen[uid] {
				seen[uid] = true
				out = append(out, uid)
			}
		}
	}
	return out
}

// ReadFile reads a file of at most limit bytes in a volume of the pod that lives on this node.
func (m *Manager) ReadFile(ctx context.Context, pod *corev1.Pod, volume, path string, limit int64) ([]byte, error) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Name != volume {
			continue
		}
		host, err := m.hostPathOf(ctx, pod, v)
		if err != nil {
			return nil, err
		}
		root, err := os.OpenRoot(host)
		if err != nil {
			return nil, err
		}
		defer root.Close()
		f, err := root.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() || info.Size() > limit {
			return nil, fmt.Errorf("%s is not a file of at most %d bytes", path, limit)
		}
		return io.ReadAll(io.LimitReader(f, limit))
	}
	return nil, fmt.Errorf("volume %q: %w", volume, fs.ErrNotExist)
}
