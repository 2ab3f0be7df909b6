package controllertest

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/catalogue"
	"github.com/celox/celox/internal/apiserver"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/client"
	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/store"
	"github.com/celox/celox/internal/store/kv/memory"
)

// Patience is how long Eventually waits: for the right answer it is never reached.
const Patience = time.Minute

// Env is a running API.
type Env struct {
	Client    kubernetes.Interface
	API       *rest.Config // how Client reaches the API
	Poster    *client.Poster
	Metadata  metadata.Interface
	Informers *informers.Factory
	Sources   []client.Source
	Catalogue *api.Catalogue
	Recorder  record.EventRecorder

	runners sync.WaitGroup
	ctx     context.Context
}

// everybody is an authenticator and authorizer that trusts all; requests in process say who they are.
type everybody struct{}

func (everybody) AuthenticateRequest(*http.Request) (user.Info, bool, error) { return nil, false, nil }

func (everybody) Authorize(context.Context, request.Attributes) (request.Decision, string, error) {
	return request.Allow, "", nil
}

// Start makes an empty API with the namespace "default", which ends with the test.
func Start(t *testing.T) *Env {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	engine := memory.New()
	kinds, err := catalogue.New()
	must(err)
	st, err := store.New(ctx, engine, store.Options{})
	must(err)
	must(apiserver.Register(st, kinds))
	must(st.Start(ctx))
	server, err := apiserver.New(apiserver.Config{Store: st, Catalogue: kinds, Authenticator: everybody{}, Authorizer: everybody{}})
	must(err)
	admin := &user.DefaultInfo{Name: "test", Groups: []string{user.SystemPrivilegedGroup}}
	e := &Env{Catalogue: kinds, Recorder: record.NewFakeRecorder(1 << 16), ctx: ctx}
	e.Client, err = client.Clientset(server.Handler(), admin, "test")
	must(err)
	e.API = client.InProcess(server.Handler(), admin, "test")
	e.Poster = client.NewPoster(server.Handler(), admin, "test")
	e.Metadata, err = metadata.NewForConfig(e.API)
	must(err)
	for _, k := range kinds.Kinds() {
		if k.Virtual || k.TTL > 0 {
			continue
		}
		c, ok := st.Collection(k.GroupResource())
		if !ok {
			t.Fatalf("no collection of %s", k.Resource)
		}
		e.Sources = append(e.Sources, client.Source{GroupResource: k.GroupResource(), Example: kinds.New(k), Reader: c})
	}
	e.Informers = client.Informers(e.Client, e.Sources)
	t.Cleanup(func() {
		cancel()
		e.runners.Wait()
		e.Informers.Shutdown()
		must(st.Close())
		must(engine.Close())
	})
	_, err = e.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	must(err)
	return e
}

// Run starts the informers and runs controllers until the test ends.
func (e *Env) Run(t *testing.T, controllers ...interface{ Run(context.Context) error }) {
	t.Helper()
	e.Informers.StartWithContext(e.ctx)
	for _, c := range controllers {
		e.runners.Go(func() {
			if err := c.Run(e.ctx); err != nil {
				t.Errorf("controller: %v", err)
			}
		})
	}
}

// Eventually waits until check returns nil.
func Eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still after %s: %v", Patience, err)
		}
		time.Sleep(5 * time.Millisecond) // there is no one event for "whatever the check reads"
	}
}

// Preferred is the resource of a kind in the version that is served first.
func Preferred(k *api.Kind) schema.GroupVersionResource {
	return k.GroupResource().WithVersion(k.Versions[0].Version)
}
