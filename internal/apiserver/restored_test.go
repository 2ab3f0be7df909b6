package apiserver

import (
	"context"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client"
	"github.com/celox/celox/internal/client/informers"
)

// TestInformerAfterRestore: an informer that has seen revisions which a restored server does not have yet finds out, and lists again.
func TestInformerAfterRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now atomic.Pointer[Server]
		before, restored := newServer(t), newServer(t)
		now.Store(before)
		up, down := context.WithCancel(t.Context())
		cs, err := client.Clientset(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := now.Load()
			if s == before { // its watches end as those of a process that has ended
				ctx, cancel := context.WithCancel(r.Context())
				defer cancel()
				defer context.AfterFunc(up, cancel)()
				r = r.WithContext(ctx)
			}
			s.Handler().ServeHTTP(w, r)
		}), &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}, "test")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		put := func(name string) int {
			m, err := cs.CoreV1().ConfigMaps("n").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			rev, err := strconv.Atoi(m.ResourceVersion)
			if err != nil {
				t.Fatal(err)
			}
			return rev
		}
		f := informers.New(cs)
		// The library's own handler looks at a clock that is not the bubble's.
		if err := f.Core().V1().ConfigMaps().Informer().SetWatchErrorHandler(func(*cache.Reflector, error) {}); err != nil {
			t.Fatal(err)
		}
		maps := f.Core().V1().ConfigMaps().Lister().ConfigMaps("n")
		f.StartWithContext(ctx)
		f.WaitForCacheSync(ctx)
		var last int
		for i := range 20 {
			last = put("lost" + strconv.Itoa(i))
		}
		for found := false; !found; time.Sleep(time.Second) {
			_, err := maps.Get("lost19")
			found = err == nil
		}
		now.Store(restored)
		if rev := put("kept"); rev >= last {
			t.Fatalf("the restored server is at %d, the other one was at %d", rev, last)
		}
		down()
		begin := time.Now()
		for {
			_, err := maps.Get("kept")
			if _, gone := maps.Get("lost19"); err == nil && gone != nil {
				break
			}
			if time.Since(begin) > 10*time.Minute {
				t.Fatal("the informer still has what was before")
			}
			time.Sleep(time.Second)
		}
		cancel()
		f.Shutdown()
	})
}
