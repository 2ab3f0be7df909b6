package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	testclock "k8s.io/utils/clock/testing"

	"github.com/celox/celox/internal/node/downward"
)

type sources struct {
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
}

func (s *sources) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if c := s.configMaps[name]; c != nil {
		return c, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("configmaps"), name)
}

func (s *sources) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if c := s.secrets[name]; c != nil {
		return c, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("secrets"), name)
}

func setup(t *testing.T) (*Manager, *sources, *testclock.FakeClock, *fake.Clientset) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("these tests mount: run them as root")
	}
	src := &sources{configMaps: map[string]*corev1.ConfigMap{}, secrets: map[string]*corev1.Secret{}}
	clk := testclock.NewFakeClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	client := fake.NewSimpleClientset()
	root := t.TempDir()
	m := New(Config{Root: root, Client: client, Sources: src, Mounter: Kernel{}, Clock: clk, Node: func(*corev1.Pod) downward.Node { return downward.Node{HostIPs: []string{"192.0.2.1"}} }})
	t.Cleanup(func() {
		if err := unmountBelow(Kernel{}, root); err != nil {
			t.Error(err)
		}
	})
	return m, src, clk, client
}

func testPod(volumes ...corev1.Volume) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "uid-1", Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Volumes: volumes, Containers: []corev1.Container{{Name: "c"}}, ServiceAccountName: "sa"},
	}
}

func vol(name string, src corev1.VolumeSource) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: src}
}

func contentOf(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestConfigMapVolumeIsUpdatedAtomically(t *testing.T) {
	m, src, _, _ := setup(t)
	mode := int32(0o640)
	pod := testPod(vol("v", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, DefaultMode: &mode}}))
	_, err := m.Setup(t.Context(), pod)
	if err == nil || err.Error() != `MountVolume.SetUp failed for volume "v" : configmap "cm" not found` {
		t.Fatalf("error %v", err)
	}
	src.configMaps["cm"] = &corev1.ConfigMap{Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"bin": {0}}}
	if _, err := m.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	dir := m.dir(pod, &pod.Spec.Volumes[0])
	if got := contentOf(t, filepath.Join(dir, "a")); got != "1" {
		t.Errorf("a is %q", got)
	}
	if info, err := os.Stat(filepath.Join(dir, "b")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("b: %v, %v", info.Mode(), err)
	}
	before, _ := os.Readlink(filepath.Join(dir, "..data"))
	if _, err := m.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Readlink(filepath.Join(dir, "..data")); after != before {
		t.Error("nothing changed, and it was written again")
	}
	src.configMaps["cm"] = &corev1.ConfigMap{Data: map[string]string{"a": "one"}}
	if _, err := m.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if got := contentOf(t, filepath.Join(dir, "a")); got != "one" {
		t.Errorf("a is %q", got)
	}
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..celox_") {
			names = append(names, e.Name())
		}
	}
	if strings.Join(names, " ") != "..data a" || len(entries) != 3 {
		t.Errorf("the volume has %v", entries)
	}
}

func TestSecretsStayInMemory(t *testing.T) {
	m, src, _, _ := setup(t)
	src.secrets["s"] = &corev1.Secret{Data: map[string][]byte{"password": []byte("pw"), "user": []byte("me")}}
	gid := int64(4711)
	pod := testPod(vol("v", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", Items: []corev1.KeyToPath{{Key: "password", Path: "deep/er/pw"}}}}))
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &gid}
	if _, err := m.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	dir := m.dir(pod, &pod.Spec.Volumes[0])
	file := filepath.Join(dir, "deep/er/pw")
	if got := contentOf(t, file); got != "pw" {
		t.Errorf("got %q", got)
	}
	info, _ := os.Stat(file)
	if group(info) != gid || info.Mode().Perm() != 0o644 {
		t.Errorf("group %d, mode %v", group(info), info.Mode())
	}
	points, err := Kernel{}.Below(m.memoryDir())
	if err != nil || len(points) != 1 {
		t.Errorf("mounts %v, %v", points, err)
	}
	if err := m.Teardown(pod.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the secret is still there: %v", err)
	}
	pod.Spec.Volumes[0].Secret.Items[0].Key = "nope"
	if _, err := m.Setup(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "references non-existent secret key: nope") {
		t.Errorf("error %v", err)
	}
}

// TestPrivateFiles: a token is for whom the pod runs as, and for its group.
func TestPrivateFiles(t *testing.T) {
	for _, c := range []struct {
		user, group *int64
		mode        os.FileMode
		owner       uint32
	}{
		{nil, nil, 0o644, 0}, {new(int64(1000)), nil, 0o600, 1000}, {nil, new(int64(4711)), 0o640, 0}, {new(int64(1000)), new(int64(4711)), 0o640, 1000},
	} {
		pod := testPod(vol("v", corev1.VolumeSource{}))
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: c.user, FSGroup: c.group}
		b := &build{pod: pod, payload: Payload{}, gid: fsGroup(pod), uid: commonUser(pod)}
		if err := b.private("token", []byte("t"), new(int32(0o644))); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if _, err := writeAtomic(dir, b.payload, b.gid); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, "token"))
		if err != nil {
			t.Fatal(err)
		}
		owner := info.Sys().(*syscall.Stat_t).Uid
		if info.Mode().Perm() != c.mode || owner != c.owner || c.group != nil && group(info) != *c.group {
			t.Errorf("%v: mode %v, owner %d, group %d", c, info.Mode(), owner, group(info))
		}
	}
}

func TestProjectedTokenIsRenewed(t *testing.T) {
	m, src, clk, client := setup(t)
	n := 0
	client.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		req := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenRequest)
		if req.Spec.BoundObjectRef == nil || req.Spec.BoundObjectRef.UID != "uid-1" || *req.Spec.ExpirationSeconds != 3607 {
			t.Errorf("request %+v", req.Spec)
		}
		n++
		out := req.DeepCopy()
		out.Status = authenticationv1.TokenRequestStatus{Token: "token" + string(rune('0'+n)), ExpirationTimestamp: metav1.NewTime(clk.Now().Add(3607 * time.Second))}
		return true, out, nil
	})
	src.configMaps["kube-root-ca.crt"] = &corev1.ConfigMap{Data: map[string]string{"ca.crt": "CA"}}
	seconds := int64(3607)
	pod := testPod(vol("kube-api-access", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
	}}}))
	next, err := m.Setup(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	if want := clk.Now().Add(3607 * 8 * time.Second / 10); next.Sub(want).Abs() > time.Second {
		t.Errorf("refresh at %v, want %v", next, want)
	}
	dir := m.dir(pod, &pod.Spec.Volumes[0])
	if contentOf(t, filepath.Join(dir, "token")) != "token1" || contentOf(t, filepath.Join(dir, "ca.crt")) != "CA" || contentOf(t, filepath.Join(dir, "namespace")) != "ns" {
		t.Error("wrong content")
	}
	if _, err := m.Setup(t.Context(), pod); err != nil || n != 1 {
		t.Errorf("%d tokens asked for, %v", n, err)
	}
	clk.SetTime(next)
	if _, err := m.Setup(t.Context(), pod); err != nil || contentOf(t, filepath.Join(dir, "token")) != "token2" {
		t.Errorf("token %q, %v", contentOf(t, filepath.Join(dir, "token")), err)
	}
}

func TestEmptyDirInMemoryHasItsSize(t *testing.T) {
	m, _, _, _ := setup(t)
	limit := resource.MustParse("1Mi")
	pod := testPod(vol("mem", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &limit}}),
		vol("disk", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	for range 2 { // the second time nothing may be mounted over it
		if _, err := m.Setup(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	dir := m.dir(pod, &pod.Spec.Volumes[0])
	if points, _ := (Kernel{}).Below(dir); len(points) != 1 {
		t.Fatalf("mounts %v", points)
	}
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 2<<20), 0o600); err == nil {
		t.Error("the size limit is not enforced")
	}
	info, err := os.Stat(m.dir(pod, &pod.Spec.Volumes[1]))
	if err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("%v, %v", info, err)
	}
	if err := m.TeardownVolumes(pod.UID); err != nil {
		t.Fatal(err)
	}
	if points, _ := (Kernel{}).Below(dir); len(points) != 0 {
		t.Errorf("mounts are left: %v", points)
	}
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(kind corev1.HostPathType, path, want string) {
		t.Helper()
		err := hostPath(&corev1.HostPathVolumeSource{Path: path, Type: &kind})
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s %s: %q, want %q", kind, path, got, want)
		}
	}
	check(corev1.HostPathDirectory, dir, "")
	check(corev1.HostPathDirectory, file, "hostPath type check failed: "+file+" is not a directory")
	check(corev1.HostPathFile, file, "")
	check(corev1.HostPathFile, dir+"/no", "hostPath type check failed: "+dir+"/no is not a file")
	check(corev1.HostPathDirectoryOrCreate, dir+"/new/er", "")
	check(corev1.HostPathFileOrCreate, dir+"/made", "")
	check(corev1.HostPathSocket, file, "hostPath type check failed: "+file+" is not a socket file")
	check(corev1.HostPathCharDev, "/dev/null", "")
	check(corev1.HostPathBlockDev, "/dev/null", "hostPath type check failed: /dev/null is not a block device")
	check("Nonsense", file, "Nonsense is an invalid volume type")
}

func TestSubPathCannotEscape(t *testing.T) {
	m, _, _, _ := setup(t)
	pod := testPod(vol("data", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	if _, err := m.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	dir := m.dir(pod, &pod.Spec.Volumes[0])
	if err := os.Symlink("/etc", filepath.Join(dir, "evil")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("inside", filepath.Join(dir, "good")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "inside"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "inside/f"), []byte("hi"), 0o644); err != nil {
		t.Fatal(err)
	}
	mounts := func(sub, expr string) (ContainerMounts, error) {
		c := &corev1.Container{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/x", SubPath: sub, SubPathExpr: expr}}}
		return m.Mounts(t.Context(), ContainerInput{Pod: pod, Container: c, Lookup: func(n string) (string, bool) { return "good", n == "DIR" }})
	}
	for _, bad := range []string{"evil", "evil/passwd", "../..", "/etc", "a/../../.."} {
		if got, err := mounts(bad, ""); err == nil {
			t.Errorf("subPath %q became %v", bad, got.Mounts)
		}
	}
	got, err := mounts("", "$(DIR)")
	if err != nil {
		t.Fatal(err)
	}
	if text := contentOf(t, filepath.Join(got.Mounts[0].HostPath, "f")); text != "hi" {
		t.Errorf("got %q", text)
	}
	if _, err := mounts("", "$(NONE)"); err == nil {
		t.Error("an unknown variable was accepted")
	}
	if err := os.Chmod(dir, 0o777|os.ModeSetgid|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if got, err = mounts("fresh/one", ""); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "fresh/one")); err != nil || info.Mode() != os.ModeDir|0o777|os.ModeSetgid|os.ModeSticky {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(got.Mounts[0].HostPath, "g"), nil, 0o644); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "fresh/one/g")); err != nil {
		t.Error(err)
	}
	if err := m.Teardown(pod.UID); err != nil {
		t.Fatal(err)
	}
}

func TestTeardownDoesNotReachThroughMounts(t *testing.T) {
	m, _, _, _ := setup(t)
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(m.PodDir("uid-1"), "volumes", "x")
	if err := os.MkdirAll(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := (Kernel{}).Bind(outside, target, false); err != nil {
		t.Fatal(err)
	}
	if err := m.Teardown("uid-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(outside, "precious")); err != nil {
		t.Errorf("somebody else's file is gone: %v", err)
	}
}

func TestContainerFiles(t *testing.T) {
	m, _, _, _ := setup(t)
	pod := testPod(vol("h", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv"}}))
	if _, err := m.Setup(t.Context(), testPod()); err != nil {
		t.Fatal(err)
	}
	c := &corev1.Container{Name: "c", TerminationMessagePath: "/dev/termination-log", VolumeMounts: []corev1.VolumeMount{{Name: "h", MountPath: "data", ReadOnly: true}}}
	got, err := m.Mounts(t.Context(), ContainerInput{Pod: pod, Container: c, Hosts: []byte("hosts")})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Mounts) != 3 || got.Mounts[0].ContainerPath != "/data" || !got.Mounts[0].Readonly || got.Mounts[0].HostPath != "/srv" {
		t.Fatalf("%v", got.Mounts)
	}
	if contentOf(t, got.Mounts[1].HostPath) != "hosts" || got.Mounts[1].ContainerPath != "/etc/hosts" {
		t.Errorf("%v", got.Mounts[1])
	}
	if info, err := os.Stat(got.TerminationFile); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("%v", err)
	}
	pod = testPod(vol("n", corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}))
	if _, err := m.Setup(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "no way to mount a volume of type nfs") {
		t.Errorf("error %v", err)
	}
}

func FuzzCheckPath(f *testing.F) {
	for _, s := range []string{"a", "a/b", "../x", "/x", "a/../b", "..data", "a//b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, p string) {
		if checkPath(p) != nil {
			return
		}
		full := filepath.Join("/root/volume", p)
		if !strings.HasPrefix(full, "/root/volume") || strings.HasPrefix(filepath.Clean(p), "..") {
			t.Errorf("%q leaves the volume: %q", p, full)
		}
	})
}
