package node

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/celox/celox/internal/node/pressure"
	"github.com/celox/celox/internal/node/server"
	"github.com/celox/celox/internal/runtime"
	"github.com/celox/celox/internal/runtime/bundle"
	"github.com/celox/celox/internal/runtime/images"
)

type stubNet struct{}

func (stubNet) Setup(context.Context, runtime.SandboxRequest) (runtime.SandboxResult, error) {
	return runtime.SandboxResult{IPs: []netip.Addr{netip.MustParseAddr("10.9.9.9")}}, nil
}
func (stubNet) Teardown(context.Context, runtime.SandboxRequest) error { return nil }
func (stubNet) Ready() error                                          { return nil }

func TestReal(t *testing.T) {
	root := "/tmp/nodereal"
	os.MkdirAll(root, 0o755)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	store, err := images.Open(images.Config{Root: root + "/images", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	bin, _ := os.ReadFile("/usr/bin/busybox")
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	for _, d := range []string{"bin/", "tmp/", "etc/", "dev/", "proc/", "sys/"} {
		tw.WriteHeader(&tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755})
	}
	tw.WriteHeader(&tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(bin))})
	tw.Write(bin)
	for _, n := range []string{"sh", "sleep", "cat", "echo", "ls", "hostname", "id", "mount", "env"} {
		tw.WriteHeader(&tar.Header{Name: "bin/" + n, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o755})
	}
	tw.Close()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	cf, _ := img.ConfigFile()
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", "amd64"
	cf.Config.Env = []string{"PATH=/bin"}
	img, _ = mutate.ConfigFile(img, cf)
	var archive bytes.Buffer
	tag, _ := name.NewTag("busybox:1")
	if err := tarball.Write(tag, img, &archive); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Import(t.Context(), &archive, nil); err != nil {
		t.Fatal(err)
	}
	binary, err := bundle.Unpack(root + "/bin")
	if err != nil {
		t.Fatal(err)
	}
	v, _ := bundle.Version()
	rt, err := runtime.New(t.Context(), runtime.Config{Root: root + "/runtime", Binary: binary, BinaryVersion: v, CgroupRoot: "/celox-nodereal", Images: store, Network: stubNet{}, Version: "1.37.0", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	client := fake.NewSimpleClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	n, err := New(Config{NodeName: testNode, Client: client, Informers: factory, Runtime: rt.Runtime(), Images: rt.ImageManager(), Streaming: rt.Streaming(),
		RootDir: root + "/node", CgroupRoot: "/celox-nodereal", NodeIPs: []string{"127.0.0.1"}, Register: true, Pressure: pressure.Thresholds{Off: true}, Log: log,
		Authenticate: func(*http.Request) (user.Info, bool, error) { return &user.DefaultInfo{}, true, nil },
		Authorize:    func(context.Context, user.Info, server.Attributes) (bool, string, error) { return true, "", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	factory.Start(ctx.Done())
	done := make(chan struct{})
	go func() { n.Run(ctx); close(done) }()
	<-n.Ready()
	get := func(name string) *corev1.Pod {
		p, err := client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil
		}
		return p
	}
	wait := func(name string, ok func(*corev1.Pod) bool) time.Duration {
		began := time.Now()
		for time.Since(began) < 20*time.Second {
			if p := get(name); ok(p) {
				return time.Since(began)
			}
			time.Sleep(time.Millisecond)
		}
		p := get(name)
		t.Errorf("%s: timeout: %v", name, p != nil)
		return 0
	}
	ready := func(p *corev1.Pod) bool {
		return p != nil && p.Status.Phase == corev1.PodRunning && p.Status.ContainerStatuses[0].Ready
	}
	var lat, del []time.Duration
	for i := range 30 {
		name := fmt.Sprintf("p%d", i)
		pod := testPod(name, func(p *corev1.Pod) {
			p.Spec.Containers[0] = corev1.Container{Name: "c", Image: "busybox:1", Command: []string{"sh", "-c", "echo hi; echo $A > /v/f; trap 'exit 0' TERM; sleep 1000 & wait"}, ImagePullPolicy: corev1.PullIfNotPresent,
				Env: []corev1.EnvVar{{Name: "A", Value: "x"}}, VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}, TerminationMessagePath: "/dev/termination-log"}
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		})
		began := time.Now()
		if _, err := client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		wait(name, ready)
		lat = append(lat, time.Since(began))
		if i == 0 {
			time.Sleep(200 * time.Millisecond)
			b := &backend{n: n, stats: n.api.Backend.(*backend).stats}
			var out bytes.Buffer
			if err := b.Logs(ctx, "default", name, "c", server.LogOptions{}, func() {}, &out, io.Discard); err != nil || out.String() != "hi\n" {
				t.Errorf("log %q %v", out.String(), err)
			}
			s, err := b.Summary(ctx)
			fmt.Println("summary", len(s.Pods), err)
			data, _ := os.ReadFile(filepath.Join(root, "node/pods/uid-p0/volumes/kubernetes.io~empty-dir/v/f"))
			if string(data) != "x\n" {
				t.Errorf("file %q", data)
			}
		}
		time.Sleep(50 * time.Millisecond)
		p := get(name)
		now, grace := metav1.Now(), int64(2)
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &grace
		began = time.Now()
		client.CoreV1().Pods("default").Update(ctx, p, metav1.UpdateOptions{})
		wait(name, func(p *corev1.Pod) bool { return p == nil })
		del = append(del, time.Since(began))
	}
	sort.Slice(lat, func(i, j int) bool { return lat[i] < lat[j] })
	sort.Slice(del, func(i, j int) bool { return del[i] < del[j] })
	fmt.Println("create->ready p50", lat[15], "max", lat[29], "delete p50", del[15], "max", del[29])

	// exit codes, messages, oom
	bad := testPod("bad", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers = []corev1.Container{
			{Name: "a", Image: "busybox:1", Command: []string{"sh", "-c", "echo bye > /dev/termination-log; exit 3"}, TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: "File"},
			{Name: "b", Image: "busybox:1", Command: []string{"/nope"}, TerminationMessagePath: "/dev/termination-log"},
			{Name: "d", Image: "busybox:1", Command: []string{"sh", "-c", "cat /etc/hosts; cat /etc/resolv.conf; hostname; mount | grep ' / '; env"}},
		}
	})
	client.CoreV1().Pods("default").Create(ctx, bad, metav1.CreateOptions{})
	wait("bad", func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == corev1.PodFailed })
	for _, cs := range get("bad").Status.ContainerStatuses {
		fmt.Println(cs.Name, describeState(cs.State))
	}
	b := n.api.Backend.(*backend)
	var out bytes.Buffer
	fmt.Println(b.Logs(ctx, "default", "bad", "d", server.LogOptions{}, func() {}, &out, io.Discard), out.String())
	for _, e := range []string{"Failed", "FailedMount", "FailedKillPod", "FailedCreatePodSandBox"} {
		r := &rig{t: t, client: client}
		fmt.Println(e, r.events(e))
	}
	p := get("bad")
	now, grace := metav1.Now(), int64(30)
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &grace
	client.CoreV1().Pods("default").Update(ctx, p, metav1.UpdateOptions{})
	wait("bad", func(p *corev1.Pod) bool { return p == nil })
	time.Sleep(300 * time.Millisecond)
	cancel()
	<-done
	factory.Shutdown()
	if err := rt.Destroy(context.Background()); err != nil {
		t.Error(err)
	}
	store.Close()
}
