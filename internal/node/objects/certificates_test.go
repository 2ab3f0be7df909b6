package objects

import (
	"sync/atomic"
	"testing"
	"testing/synctest"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestCertificates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		client := fake.NewSimpleClientset()
		var bundles atomic.Int32
		var woken atomic.Value
		c := NewCertificates(client, "n", func() { bundles.Add(1) }, func(uid types.UID) { woken.Store(uid) })
		synctest.Wait()
		if n := len(client.Actions()); n > 0 {
			t.Errorf("%d requests before anybody asked", n)
		}
		if all, err := c.TrustBundles(ctx); err != nil || len(all) != 0 {
			t.Fatalf("%v, %v", all, err)
		}
		api := client.CertificatesV1()
		if _, err := api.ClusterTrustBundles().Create(ctx, &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "b"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if all, err := c.TrustBundles(ctx); err != nil || len(all) != 1 || all[0].Name != "b" || bundles.Load() != 1 {
			t.Errorf("%v, %v, told %d times", all, err, bundles.Load())
		}
		if err := api.ClusterTrustBundles().Delete(ctx, "b", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if all, err := c.TrustBundles(ctx); err != nil || len(all) != 0 || bundles.Load() != 2 {
			t.Errorf("%v, %v, told %d times", all, err, bundles.Load())
		}

		if _, err := c.Request(ctx, "ns", "r"); !apierrors.IsNotFound(err) {
			t.Errorf("error %v", err)
		}
		r := &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r"}, Spec: certificatesv1.PodCertificateRequestSpec{PodUID: "p", NodeName: "n"}}
		if _, err := api.PodCertificateRequests("ns").Create(ctx, r, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got, err := c.Request(ctx, "ns", "r"); err != nil || got.Spec.PodUID != "p" || woken.Load() != types.UID("p") {
			t.Errorf("%v, %v, woken %v", got, err, woken.Load())
		}
		lists := 0
		for _, a := range client.Actions() {
			// A node may see no other requests than its own.
			if l, ok := a.(clienttesting.ListAction); ok && a.GetResource().Resource == "podcertificaterequests" {
				lists++
				if f := l.GetListRestrictions().Fields.String(); f != "spec.nodeName=n" {
					t.Errorf("listed with %q", f)
				}
			}
			if w, ok := a.(clienttesting.WatchAction); ok && a.GetResource().Resource == "podcertificaterequests" {
				lists++
				if f := w.GetWatchRestrictions().Fields.String(); f != "spec.nodeName=n" {
					t.Errorf("watched with %q", f)
				}
			}
		}
		if lists < 2 {
			t.Errorf("%d lists and watches", lists)
		}
		c.Close()
		if _, err := c.TrustBundles(ctx); err == nil {
			t.Error("it answers after its end")
		}
	})
}
