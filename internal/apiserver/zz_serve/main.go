// Throw-away: serves the API over the memory engine for the golden player.
package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	_ "net/http/pprof"
	"net/netip"
	"os"

	"k8s.io/apimachinery/pkg/runtime/schema"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/api/catalogue"
	"github.com/celox/celox/internal/apiserver"
	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/authn"
	"github.com/celox/celox/internal/apiserver/authz"
	"github.com/celox/celox/internal/apiserver/bootstrap"
	"github.com/celox/celox/internal/apiserver/discovery"
	"github.com/celox/celox/internal/apiserver/lookup"
	"github.com/celox/celox/internal/apiserver/openapi"
	"github.com/celox/celox/internal/client"
	"github.com/celox/celox/internal/store"
	"github.com/celox/celox/internal/store/kv/memory"
)

func main() {
	must := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	ctx := context.Background()
	cat, err := catalogue.New()
	if err != nil {
		fmt.Println("catalogue:", err)
		os.Exit(1)
	}
	st, err := store.New(ctx, memory.New(), store.Options{})
	must(err)
	must(apiserver.Register(st, cat))
	must(st.Start(ctx))
	reader := func(gr schema.GroupResource) (store.Reader, bool) { c, ok := st.Collection(gr); return c, ok }
	objects := lookup.New(reader)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	issuer, err := authn.NewIssuer("https://kubernetes.default.svc", nil, key)
	must(err)
	sas := authn.NewServiceAccounts(issuer, objects, nil)
	an := authn.New(authn.Config{ServiceAccounts: sas, AnonymousPaths: []string{"/"}, Tokens: authn.Tokens{sha256.Sum256([]byte("x")): &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}}})
	of := func(r string) store.Reader {
		c, _ := st.Collection(schema.GroupResource{Group: "rbac.authorization.k8s.io", Resource: r})
		return c
	}
	rbac := authz.NewRBAC(authz.Readers{Roles: of("roles"), ClusterRoles: of("clusterroles"), RoleBindings: of("rolebindings"), ClusterRoleBindings: of("clusterrolebindings")})
	az := authz.New(nil, rbac, []string{"/healthz", "/livez", "/readyz", "/version"})
	quotas, _ := st.Collection(schema.GroupResource{Resource: "resourcequotas"})
	adm, err := admission.Default(admission.Deps{Objects: objects, Authorizer: az, Guard: authz.NewGuard(az, rbac), Charger: quotas})
	must(err)
	disc, err := discovery.New(cat, "127.0.0.1:18080")
	must(err)
	oapi, err := openapi.New()
	must(err)
	s, err := apiserver.New(apiserver.Config{
		Store: st, Catalogue: cat, Authenticator: an, Authorizer: az, RuleResolver: az, TokenReviewer: an, TokenIssuer: sas,
		Admission: adm, Discovery: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { disc.Serve(w, r) }), OpenAPI: oapi,
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
		Version:      apiversion.Info{Major: "1", Minor: "36", GitVersion: "v1.37.0+celox"},
		Checks:       []apiserver.Check{{Name: "etcd", Run: func(context.Context) error { return nil }}},
		Logger:       slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	must(err)
	cs, err := client.Clientset(s.Handler(), &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}, "celox")
	must(err)
	must(bootstrap.Ensure(ctx, cs))
	mux := http.NewServeMux()
	mux.Handle("/debug/", http.DefaultServeMux)
	mux.Handle("/", s.Handler())
	var h http.Handler = s.Handler()
	go http.ListenAndServe("127.0.0.1:18081", mux)
	fmt.Println("serving")
	must(http.ListenAndServe(os.Args[1], h))
}
