package trustbundle

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/celox/celox/internal/client/informers"
)

func bundle(name, signer, text string) *certificatesv1.ClusterTrustBundle {
	return &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: text}}
}

func TestName(t *testing.T) {
	// The first 12 bytes of the SHA-256 of "abc" (FIPS 180-2, appendix B.1).
	if got := Name([]byte("abc")); got != "kubernetes.io:kube-apiserver-serving:ba7816bf8f01cfea414140de" {
		t.Error(got)
	}
}

func TestBundleIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, name := []byte("PEM"), Name([]byte("PEM"))
		c := fake.NewClientset(bundle("kubernetes.io:kube-apiserver-serving:former", Signer, "OLD"), bundle("example.com:theirs:x", "example.com/theirs", "X"), bundle("loose", "", "X"))
		f := informers.New(c)
		ctl, err := New(c, f, ca, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		f.StartWithContext(ctx)
		f.WaitForCacheSync(ctx)
		done := make(chan error, 1)
		go func() { done <- ctl.Run(ctx) }()
		api := c.CertificatesV1().ClusterTrustBundles()
		expect := func(when string) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			l, err := api.List(ctx, metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, b := range l.Items {
				names = append(names, b.Name)
				if b.Name == name && (b.Spec.TrustBundle != "PEM" || b.Spec.SignerName != Signer) {
					t.Errorf("%s: %+v", when, b.Spec)
				}
			}
			slices.Sort(names)
			if !slices.Equal(names, []string{"example.com:theirs:x", name, "loose"}) {
				t.Errorf("%s: %v", when, names)
			}
		}
		expect("at first")
		if _, err := api.Update(ctx, bundle(name, Signer, "FALSE"), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		expect("after a change")
		if err := api.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		expect("after a deletion")
		before := len(c.Actions())
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := len(c.Actions()) - before; n > 0 {
			t.Errorf("%d requests in a day in which nothing happened", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.Shutdown()
	})
}
