package volume

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
)

// certificateSource stands in for what is watched.
type certificateSource struct {
	bundles  []*certificatesv1.ClusterTrustBundle
	requests map[string]*certificatesv1.PodCertificateRequest
	events   []string
}

func (s *certificateSource) TrustBundles(context.Context) ([]*certificatesv1.ClusterTrustBundle, error) {
	return s.bundles, nil
}

func (s *certificateSource) Request(_ context.Context, _, name string) (*certificatesv1.PodCertificateRequest, error) {
	if r := s.requests[name]; r != nil {
		return r, nil
	}
	return nil, apierrors.NewNotFound(certificatesv1.Resource("podcertificaterequests"), name)
}

func (s *certificateSource) event(_ *corev1.Pod, reason, message string) {
	s.events = append(s.events, reason+": "+message)
}

func block(text string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(text)}))
}

func bundle(name, signer string, labels map[string]string, anchors ...string) *certificatesv1.ClusterTrustBundle {
	text := "a comment\n"
	for _, a := range anchors {
		text += block(a)
	}
	return &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: text}}
}

// blocks lists what the PEM blocks of a file contain, sorted.
func blocks(t *testing.T, data string) (out []string) {
	t.Helper()
	rest := []byte(data)
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		out = append(out, string(b.Bytes))
	}
	if len(rest) > 0 {
		t.Errorf("%q is left over", rest)
	}
	slices.Sort(out)
	return out
}

func TestTrustBundles(t *testing.T) {
	m, _, _, _ := setup(t)
	src := &certificateSource{}
	m.certificates = src
	live, none := map[string]string{"live": "true"}, map[string]string(nil)
	src.bundles = []*certificatesv1.ClusterTrustBundle{
		bundle("plain", "", none, "p"), bundle("example.com:s:1", "example.com/s", live, "a", "b"), bundle("example.com:s:2", "example.com/s", live, "b", "c"),
		bundle("example.com:s:3", "example.com/s", none, "d"), bundle("example.com:t:1", "example.com/t", live, "e"),
	}
	yes, no := true, false
	ptr := func(s string) *string { return &s }
	for _, c := range []struct {
		name string
		p    corev1.ClusterTrustBundleProjection
		want string
		err  string
	}{
		{"by name", corev1.ClusterTrustBundleProjection{Name: ptr("plain")}, "p", ""},
		{"by a signer's name", corev1.ClusterTrustBundleProjection{Name: ptr("example.com:s:2")}, "b c", ""},
		{"missing", corev1.ClusterTrustBundleProjection{Name: ptr("nix"), Optional: &no}, "", `while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io "nix" not found`},
		{"missing and optional", corev1.ClusterTrustBundleProjection{Name: ptr("nix"), Optional: &yes}, "", ""},
		{"by label", corev1.ClusterTrustBundleProjection{SignerName: ptr("example.com/s"), LabelSelector: &metav1.LabelSelector{MatchLabels: live}}, "a b c", ""},
		{"all of a signer", corev1.ClusterTrustBundleProjection{SignerName: ptr("example.com/s"), LabelSelector: &metav1.LabelSelector{}}, "a b c d", ""},
		{"no selector", corev1.ClusterTrustBundleProjection{SignerName: ptr("example.com/s"), Optional: &yes}, "", ""},
		{"no selector, needed", corev1.ClusterTrustBundleProjection{SignerName: ptr("example.com/s")}, "", "combination of signerName and labelSelector matched zero ClusterTrustBundles"},
		{"neither", corev1.ClusterTrustBundleProjection{}, "", "ClusterTrustBundle projection requires either name or signerName to be set"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.p.Path = "dir/anchors.pem"
			pod := testPod(vol("v", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ClusterTrustBundle: &c.p}}}}))
			_, err := m.Setup(t.Context(), pod)
			if c.err != "" {
				if want := `MountVolume.SetUp failed for volume "v" : ` + c.err; err == nil || err.Error() != want {
					t.Fatalf("error %v, want %s", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(m.dir(pod, &pod.Spec.Volumes[0]), "dir/anchors.pem")
			if got := strings.Join(blocks(t, contentOf(t, file)), " "); got != c.want {
				t.Errorf("anchors %q, want %q", got, c.want)
			}
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o644 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
		})
	}
	// Another bundle comes: the file follows, and is for the pod's user alone if there is one.
	user := int64(7)
	pod := testPod(vol("w", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{SignerName: ptr("example.com/t"), LabelSelector: &metav1.LabelSelector{}, Path: "a.pem"}}}}}))
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user}
	src.bundles = append(src.bundles, bundle("example.com:t:2", "example.com/t", none, "f"))
	if _, err := m.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(m.dir(pod, &pod.Spec.Volumes[0]), "a.pem")
	if got := strings.Join(blocks(t, contentOf(t, file)), " "); got != "e f" {
		t.Errorf("anchors %q", got)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestAnchorsHaveAStableOrder(t *testing.T) {
	var first, second []*certificatesv1.ClusterTrustBundle
	for i := range 40 {
		b := bundle("x", "s", nil, fmt.Sprint(i), fmt.Sprint(i+1))
		first, second = append(first, b), append([]*certificatesv1.ClusterTrustBundle{b}, second...)
	}
	seed := maphash.MakeSeed()
	a := anchors(first, seed)
	if got := blocks(t, string(a)); len(got) != 41 {
		t.Errorf("%d anchors", len(got))
	}
	if string(a) != string(anchors(second, seed)) {
		t.Error("the order depends on that of the bundles")
	}
	for range 10 {
		if string(a) != string(anchors(first, maphash.MakeSeed())) {
			return
		}
	}
	t.Error("the order is the same in every life of the node")
}

func TestPodCertificate(t *testing.T) {
	m, _, clk, client := setup(t)
	src := &certificateSource{requests: map[string]*certificatesv1.PodCertificateRequest{}}
	m.certificates, m.event, m.nodeName = src, src.event, "n"
	ctx := t.Context()
	for _, obj := range []runtime.Object{
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sa", UID: "sa-uid"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "n-uid"}},
	} {
		if err := client.Tracker().Add(obj); err != nil {
			t.Fatal(err)
		}
	}
	var made []*certificatesv1.PodCertificateRequest
	client.PrependReactor("create", "podcertificaterequests", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r := a.(clienttesting.CreateAction).GetObject().(*certificatesv1.PodCertificateRequest).DeepCopy()
		r.Name = fmt.Sprint(r.GenerateName, len(made))
		made = append(made, r)
		return true, r, nil
	})
	seconds := int32(7200)
	pod := testPod(vol("v", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{PodCertificate: &corev1.PodCertificateProjection{
		SignerName: "example.com/s", KeyType: "ED25519", MaxExpirationSeconds: &seconds, CredentialBundlePath: "bundle.pem", KeyPath: "key.pem", CertificateChainPath: "chain.pem",
		UserAnnotations: map[string]string{"example.com/a": "b"},
	}}}}}))
	const waits = `MountVolume.SetUp failed for volume "v" : credential bundle is not issued yet`
	for range 2 { // however often it is looked at, it is asked for once
		if _, err := m.Setup(ctx, pod); err == nil || err.Error() != waits {
			t.Fatalf("error %v", err)
		}
	}
	if len(made) != 1 {
		t.Fatalf("%d requests", len(made))
	}
	s := made[0].Spec
	if o := made[0].OwnerReferences; len(o) != 1 || o[0].Kind != "Pod" || o[0].UID != "uid-1" || s.SignerName != "example.com/s" || s.PodName != "p" || s.PodUID != "uid-1" ||
		s.ServiceAccountName != "sa" || s.ServiceAccountUID != "sa-uid" || s.NodeName != "n" || s.NodeUID != "n-uid" || *s.MaxExpirationSeconds != 7200 ||
		s.UnverifiedUserAnnotations["example.com/a"] != "b" {
		t.Errorf("request %+v", made[0])
	}
	csr, err := x509.ParseCertificateRequest(s.StubPKCS10Request)
	if err != nil || csr.CheckSignature() != nil {
		t.Fatalf("stub: %v", err)
	}
	answer := func(i int, chain string) {
		r := made[i].DeepCopy()
		begin, end := metav1.NewTime(clk.Now().Add(time.Hour)), metav1.NewTime(clk.Now().Add(2*time.Hour))
		r.Status = certificatesv1.PodCertificateRequestStatus{
			Conditions:       []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue}},
			CertificateChain: chain, BeginRefreshAt: &begin, NotAfter: &end,
		}
		src.requests[r.Name] = r
	}
	answer(0, "text between\n"+block("leaf")+"more\n"+block("ca"))
	next, err := m.Setup(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	if d := next.Sub(clk.Now()); d < time.Hour || d > time.Hour+spread {
		t.Errorf("the next one is asked for in %v", d)
	}
	dir := m.dir(pod, &pod.Spec.Volumes[0])
	read := func(name string) string { t.Helper(); return contentOf(t, filepath.Join(dir, name)) }
	key, chain := read("key.pem"), read("chain.pem")
	if chain != block("leaf")+block("ca") || read("bundle.pem") != key+chain {
		t.Errorf("chain %q, bundle %q", chain, read("bundle.pem"))
	}
	b, _ := pem.Decode([]byte(key))
	if parsed, err := x509.ParsePKCS8PrivateKey(b.Bytes); err != nil || !parsed.(ed25519.PrivateKey).Public().(ed25519.PublicKey).Equal(csr.PublicKey) {
		t.Errorf("the key is not that of the request: %v", err)
	}
	// The time comes: another is asked for with another key, and the old one stays until it is there.
	clk.SetTime(next)
	again, err := m.Setup(ctx, pod)
	if err != nil || len(made) != 2 || read("chain.pem") != chain || !again.After(next) {
		t.Fatalf("%d requests, again at %v, %v", len(made), again, err)
	}
	clk.SetTime(next.Add(overdueAfter + time.Second))
	if _, err := m.Setup(ctx, pod); err != nil {
		t.Fatal(err)
	}
	clk.SetTime(next.Add(2 * time.Hour))
	for range 2 {
		if _, err := m.Setup(ctx, pod); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"CertificateOverdueForRefresh: PodCertificate refresh overdue", "CertificateExpired: PodCertificate expired"}; !slices.Equal(src.events, want) {
		t.Errorf("events %q", src.events)
	}
	// The second was deleted, as it was not answered in time: a third is made.
	if len(made) != 3 {
		if _, err := m.Setup(ctx, pod); err != nil {
			t.Fatal(err)
		}
	}
	if len(made) != 3 {
		t.Fatalf("%d requests", len(made))
	}
	answer(2, block("new"))
	if _, err := m.Setup(ctx, pod); err != nil || read("chain.pem") != block("new") || read("key.pem") == key {
		t.Errorf("chain %q, %v", read("chain.pem"), err)
	}
	m.mu.Lock()
	m.forget(pod.UID)
	left := len(m.issued)
	m.mu.Unlock()
	if left != 0 {
		t.Errorf("%d pods are remembered", left)
	}
}

func TestPodCertificateRefused(t *testing.T) {
	for _, kind := range []string{certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed} {
		m, _, clk, _ := setup(t)
		src := &certificateSource{requests: map[string]*certificatesv1.PodCertificateRequest{"r": {
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r"},
			Status:     certificatesv1.PodCertificateRequestStatus{Conditions: []metav1.Condition{{Type: kind, Status: metav1.ConditionTrue, Reason: "No", Message: "never"}}},
		}}}
		m.certificates, m.event = src, src.event
		pod := testPod(vol("v", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{PodCertificate: &corev1.PodCertificateProjection{KeyPath: "k"}}}}}))
		m.certificate(pod.UID, certificateKey{"v", 0}).pending = &certificateRequest{name: "r", lostAt: clk.Now().Add(time.Hour)}
		want := fmt.Sprintf(`MountVolume.SetUp failed for volume "v" : PodCertificateRequest was permanently %s: reason="No" message="never"`, strings.ToLower(kind))
		for range 2 {
			if _, err := m.Setup(t.Context(), pod); err == nil || err.Error() != want {
				t.Errorf("error %v, want %s", err, want)
			}
		}
		if len(src.events) != 1 || !strings.HasPrefix(src.events[0], kind+": PodCertificateRequest ns/r ") {
			t.Errorf("events %q", src.events)
		}
	}
}

func TestNewKey(t *testing.T) {
	for kind, bits := range map[string]int{"RSA3072": 3072, "ECDSAP256": 256, "ECDSAP384": 384, "ECDSAP521": 521, "ED25519": 0} {
		key, err := newKey(kind)
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		switch k := key.(type) {
		case *rsa.PrivateKey:
			got = k.N.BitLen()
		case *ecdsa.PrivateKey:
			got = k.Curve.Params().BitSize
		}
		if got != bits {
			t.Errorf("%s has %d bits", kind, got)
		}
	}
	if _, err := newKey("DSA"); err == nil {
		t.Error("DSA was made")
	}
}
