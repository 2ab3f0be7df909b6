package bootstrap

import (
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/component-helpers/auth/rbac/validation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newClient() *fake.Clientset { return fake.NewClientset() }

// writes counts what was written since the last call.
func writes(c *fake.Clientset) []string {
	var out []string
	for _, a := range c.Actions() {
		if v := a.GetVerb(); v != "get" && v != "list" && v != "watch" {
			out = append(out, v+" "+a.GetResource().Resource)
		}
	}
	c.ClearActions()
	return out
}

func TestFirstAndSecondStart(t *testing.T) {
	c := newClient()
	if err := Ensure(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	first := writes(c)
	count := map[string]int{}
	for _, w := range first {
		count[w]++
	}
	for what, want := range map[string]int{
		"create namespaces": 4, "create clusterroles": 73, "create clusterrolebindings": 54, "create roles": 7, "create rolebindings": 7,
		"create priorityclasses": 2, "create prioritylevelconfigurations": 8, "create flowschemas": 11,
	} {
		if count[what] != want {
			t.Errorf("%s: %d, want %d", what, count[what], want)
		}
		delete(count, what)
	}
	if len(count) > 0 {
		t.Errorf("also wrote %v", count)
	}
	if err := Ensure(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if w := writes(c); len(w) > 0 {
		t.Errorf("the second start wrote %v", w)
	}
}

func TestRepair(t *testing.T) {
	c := newClient()
	ctx := t.Context()
	if err := Ensure(ctx, c); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		c.RbacV1().ClusterRoles().Delete(ctx, "view", metav1.DeleteOptions{}),
		update(t, c, "system:kube-scheduler", func(r *rbacv1.ClusterRole) {
			r.Rules = append(r.Rules[1:], policies([]rule{allow("get", "example.com", "things")})...)
			delete(r.Labels, "kubernetes.io/bootstrapping")
		}),
		update(t, c, "system:discovery", func(r *rbacv1.ClusterRole) {
			r.Rules = nil
			r.Annotations[rbacv1.AutoUpdateAnnotationKey] = "false"
		}),
		update(t, c, "admin", func(r *rbacv1.ClusterRole) { r.Rules = nil }),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := c.RbacV1().ClusterRoleBindings().Get(ctx, "system:discovery", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b.Subjects = []rbacv1.Subject{group("more")}
	if _, err := c.RbacV1().ClusterRoleBindings().Update(ctx, b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	other := binding(kubeSystem, "system:controller:token-cleaner", "other")
	if _, err := c.RbacV1().RoleBindings(kubeSystem).Update(ctx, other, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	writes(c)
	if err := Ensure(ctx, c); err != nil {
		t.Fatal(err)
	}
	got := writes(c)
	slices.Sort(got)
	if want := []string{"create clusterroles", "create rolebindings", "delete rolebindings", "update clusterrolebindings", "update clusterroles"}; !slices.Equal(got, want) {
		t.Errorf("wrote %v, want %v", got, want)
	}
	scheduler, err := c.RbacV1().ClusterRoles().Get(ctx, "system:kube-scheduler", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range clusterRoles() {
		if r.Name != scheduler.Name {
			continue
		}
		if ok, missing := validation.Covers(scheduler.Rules, append(r.Rules, policies([]rule{allow("get", "example.com", "things")})...)); !ok {
			t.Errorf("missing %v", missing)
		}
	}
	b, err = c.RbacV1().ClusterRoleBindings().Get(ctx, "system:discovery", metav1.GetOptions{})
	if err != nil || len(b.Subjects) != 2 {
		t.Errorf("got %+v, %v", b, err)
	}
}

func update(t *testing.T, c *fake.Clientset, name string, change func(*rbacv1.ClusterRole)) error {
	t.Helper()
	r, err := c.RbacV1().ClusterRoles().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	change(r)
	_, err = c.RbacV1().ClusterRoles().Update(t.Context(), r, metav1.UpdateOptions{})
	return err
}

func TestAggregatedRolesAreFull(t *testing.T) {
	all := clusterRoles()
	fillAggregated(all)
	byName := map[string]*rbacv1.ClusterRole{}
	for _, r := range all {
		byName[r.Name] = r
	}
	for _, c := range []struct{ role, holds string }{
		{"view", "system:aggregate-to-view"}, {"edit", "view"}, {"edit", "system:aggregate-to-edit"}, {"admin", "edit"}, {"admin", "system:aggregate-to-admin"},
	} {
		if ok, missing := validation.Covers(byName[c.role].Rules, byName[c.holds].Rules); !ok || len(byName[c.holds].Rules) == 0 {
			t.Errorf("%s misses %v of %s", c.role, missing, c.holds)
		}
	}
	if len(NodeRules()) == 0 {
		t.Error("nodes have no rules")
	}
	for _, r := range all {
		for _, rule := range r.Rules {
			if len(rule.Verbs) == 0 || len(rule.NonResourceURLs) == 0 && (len(rule.APIGroups) == 0 || len(rule.Resources) == 0) {
				t.Errorf("%s: incomplete rule %v", r.Name, rule)
			}
		}
	}
}

func TestKubernetesService(t *testing.T) {
	c := newClient()
	ctx := t.Context()
	ensure := func(serviceIP, ip string, port int) []string {
		t.Helper()
		if err := EnsureKubernetesService(ctx, c, serviceIP, ip, port); err != nil {
			t.Fatal(err)
		}
		return writes(c)
	}
	if got := ensure("10.96.0.1", "192.0.2.1", 6443); len(got) != 3 {
		t.Errorf("first start wrote %v", got)
	}
	if got := ensure("10.96.0.1", "192.0.2.1", 6443); len(got) != 0 {
		t.Errorf("second start wrote %v", got)
	}
	if got := strings.Join(ensure("10.96.0.1", "192.0.2.2", 6443), ", "); got != "update endpoints, update endpointslices" {
		t.Errorf("another address: wrote %v", got)
	}
	if got := strings.Join(ensure("10.97.0.1", "2001:db8::1", 6443), ", "); got != "delete services, create services, update endpoints, delete endpointslices, create endpointslices" {
		t.Errorf("another family: wrote %v", got)
	}
	svc, err := c.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil || svc.Spec.ClusterIP != "10.97.0.1" || svc.Spec.Ports[0].Port != 443 || svc.Spec.Ports[0].TargetPort.IntVal != 6443 {
		t.Errorf("got %+v, %v", svc, err)
	}
	for _, bad := range []func() error{
		func() error { return EnsureKubernetesService(ctx, c, "10.96.0.1", "box", 6443) },
		func() error { return EnsureKubernetesService(ctx, c, "10.96.0.1", "192.0.2.1", 0) },
	} {
		if bad() == nil {
			t.Error("nonsense was accepted")
		}
	}
}

func TestDNSService(t *testing.T) {
	c := newClient()
	ctx := t.Context()
	for _, step := range []struct {
		what string
		do   func() error
		want string
	}{
		{"first start", func() error { return EnsureDNSService(ctx, c, []string{"10.96.0.10"}) }, "create services"},
		{"second start", func() error { return EnsureDNSService(ctx, c, []string{"10.96.0.10"}) }, ""},
		{"another range", func() error { return EnsureDNSService(ctx, c, []string{"10.97.0.10"}) }, "delete services, create services"},
		{"a second family", func() error { return EnsureDNSService(ctx, c, []string{"10.97.0.10", "fd97::a"}) }, "update services"},
		{"both are there", func() error { return EnsureDNSService(ctx, c, []string{"10.97.0.10", "fd97::a"}) }, ""},
		{"without", func() error { return RemoveDNSService(ctx, c) }, "delete services"},
		{"still without", func() error { return RemoveDNSService(ctx, c) }, ""},
		{"somebody else's", func() error {
			_, err := c.CoreV1().Services("kube-system").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "kube-dns"}}, metav1.CreateOptions{})
			return err
		}, "create services"},
		{"stays", func() error { return RemoveDNSService(ctx, c) }, ""},
		{"stays as it is", func() error { return EnsureDNSService(ctx, c, []string{"10.97.0.10"}) }, ""},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(writes(c), ", "); got != step.want {
			t.Errorf("%s: wrote %q, want %q", step.what, got, step.want)
		}
	}
}

func TestAuthenticationConfig(t *testing.T) {
	c := newClient()
	for i, want := range []int{1, 0} {
		if err := EnsureAuthenticationConfig(t.Context(), c, []byte("a"), []byte("b"), []string{"front-proxy-client"}); err != nil {
			t.Fatal(err)
		}
		if got := writes(c); len(got) != want {
			t.Errorf("start %d wrote %v", i, got)
		}
	}
	var m *corev1.ConfigMap
	m, err := c.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "extension-apiserver-authentication", metav1.GetOptions{})
	if err != nil || m.Data["requestheader-allowed-names"] != `["front-proxy-client"]` {
		t.Errorf("got %+v, %v", m, err)
	}
}
