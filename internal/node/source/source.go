package source

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/node/observed"
)

const (
	maxManifestBytes = 10 << 20
	askEvery         = 20 * time.Second
	settle           = 100 * time.Millisecond // editors write a file in several steps
)

// Config is what a Set is given.
type Config struct {
	NodeName string
	Dir      string // "": none
	URL      string // "": none
	Clock    clock.WithTicker
	Log      *slog.Logger
	// Update is told of a new pod, Remove of one that is gone. Neither is called with locks held.
	Update func(*corev1.Pod)
	Remove func(types.UID)
}

// Set is the set of static pods. Run owns it; the other methods are safe for concurrent use.
type Set struct {
	Config
	mu       sync.Mutex
	pods     map[string]map[types.UID]*corev1.Pod // by source
	complete chan struct{}
}

// NewSet makes a Set.
func NewSet(c Config) *Set {
	s := &Set{Config: c, pods: map[string]map[types.UID]*corev1.Pod{}, complete: make(chan struct{})}
	if c.Dir == "" && c.URL == "" {
		close(s.complete)
	}
	return s
}

// Complete is closed when every source has been read once: what is not there then is gone.
func (s *Set) Complete() <-chan struct{} { return s.complete }

// Synced tells whether every source has been read once.
func (s *Set) Synced() bool {
	select {
	case <-s.complete:
		return true
	default:
		return false
	}
}

// Get finds a static pod by name.
func (s *Set) Get(name types.NamespacedName) *corev1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range s.pods {
		for _, p := range list {
			if p.Namespace == name.Namespace && p.Name == name.Name {
				return p
			}
		}
	}
	return nil
}

// Pod finds a static pod by its uid.
func (s *Set) Pod(uid types.UID) *corev1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range s.pods {
		if p := list[uid]; p != nil {
			return p
		}
	}
	return nil
}

// UID is the uid of the static pod with this name and content, "" if there is none.
func (s *Set) UID(name types.NamespacedName, hash string) types.UID {
	if p := s.Get(name); p != nil && p.Annotations[observed.AnnotationConfigHash] == hash {
		return p.UID
	}
	return ""
}

// Run follows the sources until ctx ends.
func (s *Set) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	var first sync.WaitGroup
	if s.Dir != "" {
		first.Add(1)
		wg.Go(func() { s.followDir(ctx, sync.OnceFunc(first.Done)) })
	}
	if s.URL != "" {
		first.Add(1)
		wg.Go(func() { s.followURL(ctx, sync.OnceFunc(first.Done)) })
	}
	first.Wait()
	if ctx.Err() == nil && !s.Synced() {
		close(s.complete)
	}
}

func (s *Set) followDir(ctx context.Context, read func()) {
	defer read()
	if err := os.MkdirAll(s.Dir, 0o750); err != nil {
		s.Log.Error("static pods are not read", "dir", s.Dir, "error", err)
		return
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		s.Log.Error("static pods are not read", "dir", s.Dir, "error", err)
		return
	}
	defer w.Close()
	if err := w.Add(s.Dir); err != nil {
		s.Log.Error("static pods are not read", "dir", s.Dir, "error", err)
		return
	}
	for {
		s.set("file", s.readDir())
		read()
		select {
		case <-ctx.Done():
			return
		case <-w.Events:
			t := s.Clock.NewTimer(settle)
		drain:
			for {
				select {
				case <-ctx.Done():
					t.Stop()
					return
				case <-w.Events:
				case <-t.C():
					break drain
				}
			}
		case err := <-w.Errors:
			s.Log.Debug("watching static pods", "error", err)
		}
	}
}

func (s *Set) readDir() []*corev1.Pod {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		s.Log.Warn("cannot read static pods", "dir", s.Dir, "error", err)
		return nil
	}
	var out []*corev1.Pod
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || e.IsDir() {
			continue
		}
		path := filepath.Join(s.Dir, e.Name())
		f, err := os.Open(path)
		if err != nil {
			s.Log.Warn("cannot read a static pod", "file", path, "error", err)
			continue
		}
		data, err := io.ReadAll(io.LimitReader(f, maxManifestBytes))
		f.Close()
		if err == nil {
			var pods []*corev1.Pod
			pods, err = Parse(data, s.NodeName, "file", path)
			out = append(out, pods...)
		}
		if err != nil {
			s.Log.Warn("cannot read a static pod", "file", path, "error", err)
		}
	}
	return out
}

func (s *Set) followURL(ctx context.Context, read func()) {
	defer read()
	client := &http.Client{Timeout: 10 * time.Second}
	ticker := s.Clock.NewTicker(askEvery)
	defer ticker.Stop()
	for {
		pods, err := s.ask(ctx, client)
		if err == nil {
			s.set("http", pods)
			read()
		} else if ctx.Err() == nil {
			s.Log.Warn("cannot read static pods", "url", s.URL, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
	}
}

func (s *Set) ask(ctx context.Context, client *http.Client) ([]*corev1.Pod, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxManifestBytes))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %s", resp.Status)
	}
	return Parse(data, s.NodeName, "http", s.URL)
}

// set replaces the pods of one source.
func (s *Set) set(from string, pods []*corev1.Pod) {
	next := make(map[types.UID]*corev1.Pod, len(pods))
	for _, p := range pods {
		next[p.UID] = p
	}
	s.mu.Lock()
	old := s.pods[from]
	s.pods[from] = next
	s.mu.Unlock()
	for uid := range old {
		if next[uid] == nil {
			s.Remove(uid)
		}
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	for _, p := range pods {
		if old[p.UID] == nil {
			s.Update(p)
		}
	}
}

// Parse reads a manifest: a pod or a list of pods, in YAML or JSON.
func Parse(data []byte, nodeName, from, origin string) ([]*corev1.Pod, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, fmt.Errorf("the manifest is empty")
	}
	raw, err := yaml.ToJSON(data)
	if err != nil {
		return nil, err
	}
	var kind struct {
		Kind  string            `json:"kind"`
		Items []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(raw, &kind); err != nil {
		return nil, err
	}
	items := []json.RawMessage{raw}
	switch kind.Kind {
	case "Pod":
	case "PodList", "List":
		items = kind.Items
	default:
		return nil, fmt.Errorf("expected a Pod or a PodList, not %q", kind.Kind)
	}
	var out []*corev1.Pod
	for _, item := range items {
		pod := &corev1.Pod{}
		if err := json.Unmarshal(item, pod); err != nil {
			return nil, err
		}
		if err := complete(pod, nodeName, from, origin); err != nil {
			return nil, err
		}
		out = append(out, pod)
	}
	return out, nil
}

// complete does for a static pod what the API server does for others, as far as the node depends on it.
func complete(pod *corev1.Pod, nodeName, from, origin string) error {
	pod.TypeMeta.APIVersion, pod.TypeMeta.Kind = "v1", "Pod"
	if errs := validation.IsDNS1123Subdomain(pod.Name); len(errs) > 0 {
		return fmt.Errorf("metadata.name %q: %s", pod.Name, strings.Join(errs, "; "))
	}
	if len(pod.Spec.Containers) == 0 {
		return fmt.Errorf("pod %q has no containers", pod.Name)
	}
	if pod.Spec.ServiceAccountName != "" {
		return fmt.Errorf("static pod %q must not have a serviceAccountName", pod.Name)
	}
	if pod.UID == "" {
		data, err := json.Marshal(pod)
		if err != nil {
			return err
		}
		sum := md5.Sum(fmt.Appendf(data, "host:%s%s:%s", nodeName, from, origin))
		pod.UID = types.UID(hex.EncodeToString(sum[:]))
	}
	pod.Name += "-" + strings.ToLower(nodeName)
	if pod.Namespace == "" {
		pod.Namespace = corev1.NamespaceDefault
	}
	pod.Spec.NodeName = nodeName
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[observed.AnnotationConfigSource] = from
	pod.Annotations[observed.AnnotationConfigHash] = string(pod.UID)
	pod.Annotations[observed.AnnotationConfigSeen] = time.Now().Format(time.RFC3339Nano)
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})
	spec := &pod.Spec
	setDefault(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	setDefault(&spec.DNSPolicy, corev1.DNSClusterFirst)
	if spec.SecurityContext == nil {
		spec.SecurityContext = &corev1.PodSecurityContext{}
	}
	if spec.TerminationGracePeriodSeconds == nil {
		g := int64(corev1.DefaultTerminationGracePeriodSeconds)
		spec.TerminationGracePeriodSeconds = &g
	}
	no := false
	spec.EnableServiceLinks = &no
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			c := &list[i]
			setDefault(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
			setDefault(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
			if c.ImagePullPolicy == "" {
				c.ImagePullPolicy = corev1.PullIfNotPresent
				if !strings.Contains(c.Image[strings.LastIndexByte(c.Image, '/')+1:], ":") || strings.HasSuffix(c.Image, ":latest") {
					c.ImagePullPolicy = corev1.PullAlways
				}
			}
			for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
				if p == nil {
					continue
				}
				setDefault(&p.TimeoutSeconds, 1)
				setDefault(&p.PeriodSeconds, 10)
				setDefault(&p.SuccessThreshold, 1)
				setDefault(&p.FailureThreshold, 3)
			}
		}
	}
	return nil
}

func setDefault[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}
