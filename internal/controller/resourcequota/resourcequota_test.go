package resourcequota_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/celox/celox/internal/client"
	"github.com/celox/celox/internal/controller/controllertest"
	"github.com/celox/celox/internal/controller/resourcequota"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs the controller; the resources in apart have no shared informer.
func start(t *testing.T, apart ...string) *controllertest.Env {
	t.Helper()
	return startAt(t, clock.RealClock{}, apart...)
}

func startAt(t *testing.T, now clock.WithTicker, apart ...string) *controllertest.Env {
	t.Helper()
	e := controllertest.Start(t)
	cfg := resourcequota.Config{
		Client: e.Client, Metadata: e.Metadata, Informers: e.Informers, Clock: now,
		Resolve: func(gr schema.GroupResource) (schema.GroupVersionResource, bool) {
			k, ok := e.Catalogue.ByGroupResource(gr)
			if !ok {
				return schema.GroupVersionResource{}, false
			}
			return controllertest.Preferred(k), true
		},
	}
	for _, s := range e.Sources {
		if k, ok := e.Catalogue.ByGroupResource(s.GroupResource); ok && k.Namespaced && !slices.Contains(apart, k.Resource) {
			cfg.Resources = append(cfg.Resources, resourcequota.Resource{GroupResource: s.GroupResource, Informer: client.InformerFor(e.Informers, s)})
		}
	}
	c, err := resourcequota.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, c)
	return e
}

func amounts(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i+1 < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

// wants waits until a quota says that this is used.
func wants(t *testing.T, e *controllertest.Env, name, want string) {
	t.Helper()
	controllertest.Eventually(t, func() error {
		q, err := e.Client.CoreV1().ResourceQuotas("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		var parts []string
		for k, v := range q.Status.Used {
			parts = append(parts, string(k)+"="+v.String())
		}
		slices.Sort(parts)
		if got := strings.Join(parts, ","); got != want || len(q.Status.Hard) != len(q.Spec.Hard) {
			return fmt.Errorf("used %q of %v, want %q", got, q.Status.Hard, want)
		}
		return nil
	})
}

func TestCounting(t *testing.T) {
	e := start(t, "configmaps")
	core := e.Client.CoreV1()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pod := func(name, cpu string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i",
			Resources: corev1.ResourceRequirements{Requests: amounts("cpu", cpu)}}}}}
	}
	must(core.ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{}))
	must(core.Pods("default").Create(t.Context(), pod("p", "100m"), metav1.CreateOptions{}))
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: amounts(
		"pods", "5", "requests.cpu", "1", "configmaps", "3", "count/configmaps", "3", "services.nodeports", "2", "count/things.example.com", "4", "resourcequotas", "2")}}
	must(core.ResourceQuotas("default").Create(t.Context(), q, metav1.CreateOptions{}))
	wants(t, e, "q", "configmaps=1,count/configmaps=1,count/things.example.com=0,pods=1,requests.cpu=100m,resourcequotas=1,services.nodeports=0")
	// What goes or ends is given back at once, in shared informers and in the controller's own.
	if err := core.ConfigMaps("default").Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wants(t, e, "q", "configmaps=0,count/configmaps=0,count/things.example.com=0,pods=1,requests.cpu=100m,resourcequotas=1,services.nodeports=0")
	p, err := core.Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
	must(p, err)
	p.Status.Phase = corev1.PodSucceeded
	must(core.Pods("default").UpdateStatus(t.Context(), p, metav1.UpdateOptions{}))
	wants(t, e, "q", "configmaps=0,count/configmaps=0,count/things.example.com=0,pods=0,requests.cpu=0,resourcequotas=1,services.nodeports=0")
	// A quota that changes is counted anew.
	now, err := core.ResourceQuotas("default").Get(t.Context(), "q", metav1.GetOptions{})
	must(now, err)
	now.Spec.Hard = amounts("count/pods", "3")
	must(core.ResourceQuotas("default").Update(t.Context(), now, metav1.UpdateOptions{}))
	wants(t, e, "q", "count/pods=1")
}

// asked is a clock that stands still and knows how often it was looked at: twice for each count that is lower than what is written.
type asked struct {
	*testingclock.FakeClock
	times atomic.Int64
}

func (c *asked) Now() time.Time {
	c.times.Add(1)
	return c.FakeClock.Now()
}

// TestChargedFirst: what admission charged for an object that is not to be seen yet is not given away.
func TestChargedFirst(t *testing.T) {
	c := &asked{FakeClock: testingclock.NewFakeClock(time.Now())}
	e := startAt(t, c)
	core := e.Client.CoreV1()
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: amounts("configmaps", "2", "secrets", "5")}}
	if _, err := core.ResourceQuotas("default").Create(t.Context(), q, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	wants(t, e, "q", "configmaps=0,secrets=0")
	// Admission charges for a ConfigMap; then a Secret goes, so that all is counted.
	charge := func(n string) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			q, err := core.ResourceQuotas("default").Get(t.Context(), "q", metav1.GetOptions{})
			if err != nil {
				return err
			}
			q.Status.Used[corev1.ResourceConfigMaps] = resource.MustParse(n)
			_, err = core.ResourceQuotas("default").UpdateStatus(t.Context(), q, metav1.UpdateOptions{})
			return err
		})
	}
	recount := func(secret string) {
		t.Helper()
		if _, err := core.Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secret}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := core.Secrets("default").Delete(t.Context(), secret, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// counted has everything counted until some more counts have ended that found less than what is written: the charge may be seen after the Secret.
	secrets := 0
	counted := func() {
		t.Helper()
		from := c.times.Load()
		controllertest.Eventually(t, func() error {
			if n := c.times.Load() - from; n < 6 {
				secrets++
				recount(fmt.Sprint("again", secrets))
				return fmt.Errorf("the clock was asked %d times", n)
			}
			return nil
		})
	}
	charge("1")
	counted()
	now, err := core.ResourceQuotas("default").Get(t.Context(), "q", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := now.Status.Used[corev1.ResourceConfigMaps]; n.Value() != 1 {
		t.Fatalf("what was charged was given away: %s are used", n.String())
	}
	// What more is used counts at once, even while something is in doubt.
	if _, err := core.Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "b"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	wants(t, e, "q", "configmaps=1,secrets=1")
	counted()
	// Another charge, and the time that has passed until then does not count.
	c.Step(time.Minute)
	charge("2")
	// The charged objects are never stored: when nobody was charged for some time, what is counted is believed.
	controllertest.Eventually(t, func() error {
		c.Step(time.Second)
		q, err := core.ResourceQuotas("default").Get(t.Context(), "q", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if n := q.Status.Used[corev1.ResourceConfigMaps]; !n.IsZero() {
			return fmt.Errorf("still %s", n.String())
		}
		return nil
	})
}

func TestScopes(t *testing.T) {
	e := start(t)
	core := e.Client.CoreV1()
	for name, cpu := range map[string]string{"effort": "", "burst": "10m"} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		if cpu != "" {
			p.Spec.Containers[0].Resources.Requests = amounts("cpu", cpu)
		}
		if _, err := core.Pods("default").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, scope := range []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeTerminating} {
		q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: strings.ToLower(string(scope))}, Spec: corev1.ResourceQuotaSpec{Hard: amounts("pods", "5"), Scopes: []corev1.ResourceQuotaScope{scope}}}
		if _, err := core.ResourceQuotas("default").Create(t.Context(), q, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	wants(t, e, "besteffort", "pods=1")
	wants(t, e, "notbesteffort", "pods=1")
	wants(t, e, "terminating", "pods=0")
}

// TestSeenLate: an object that is seen after its quota was counted, without its charge, is counted soon.
func TestSeenLate(t *testing.T) {
	e := start(t)
	core := e.Client.CoreV1()
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: amounts("secrets", "5")}}
	if _, err := core.ResourceQuotas("default").Create(t.Context(), q, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	wants(t, e, "q", "secrets=0")
	if _, err := core.Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	wants(t, e, "q", "secrets=1")
}

// TestLimitsChange: what is limited may change at any time, below what is used as well; what a quota is about may not.
func TestLimitsChange(t *testing.T) {
	e := start(t)
	core := e.Client.CoreV1()
	for name, class := range map[string]string{"a": "", "b": "", "c": "high"} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{PriorityClassName: class, Containers: []corev1.Container{{Name: "c", Image: "i",
			Resources: corev1.ResourceRequirements{Requests: amounts("cpu", "100m", "memory", "1Mi"), Limits: amounts("cpu", "1", "memory", "1Mi")}}}}}
		if _, err := core.Pods("default").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, q := range []*corev1.ResourceQuota{
		{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: corev1.ResourceQuotaSpec{Hard: amounts("pods", "10")}},
		{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Spec: corev1.ResourceQuotaSpec{Hard: amounts("pods", "10"), ScopeSelector: &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{{
			ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: corev1.ScopeSelectorOpIn, Values: []string{"high"}}}}}},
	} {
		if _, err := core.ResourceQuotas("default").Create(t.Context(), q, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name      string
		hard      corev1.ResourceList
		all, high string
	}{
		{"more", amounts("pods", "20", "requests.cpu", "5"), "pods=3,requests.cpu=300m", "pods=1,requests.cpu=100m"},
		{"less than is used", amounts("pods", "1", "requests.cpu", "50m"), "pods=3,requests.cpu=300m", "pods=1,requests.cpu=100m"},
		{"other things", amounts("limits.cpu", "5", "count/pods", "4"), "count/pods=3,limits.cpu=3", "count/pods=1,limits.cpu=1"},
		{"one of them", amounts("limits.cpu", "5"), "limits.cpu=3", "limits.cpu=1"},
		{"nothing", corev1.ResourceList{}, "", ""},
		{"something again", amounts("requests.memory", "1Gi"), "requests.memory=3Mi", "requests.memory=1Mi"},
	} {
		for name, want := range map[string]string{"all": step.all, "high": step.high} {
			controllertest.Eventually(t, func() error {
				q, err := core.ResourceQuotas("default").Get(t.Context(), name, metav1.GetOptions{})
				if err != nil {
					return err
				}
				q.Spec.Hard = step.hard
				_, err = core.ResourceQuotas("default").Update(t.Context(), q, metav1.UpdateOptions{})
				return err
			})
			wants(t, e, name, want)
		}
	}
	q, err := core.ResourceQuotas("default").Get(t.Context(), "high", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	q.Spec.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeNotTerminating}
	if _, err := core.ResourceQuotas("default").Update(t.Context(), q, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("other scopes: %v", err)
	}
}

// TestScopeOfPodChanges: a pod that gets a deadline goes over from one quota to the other.
func TestScopeOfPodChanges(t *testing.T) {
	e := start(t)
	core := e.Client.CoreV1()
	if _, err := core.Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, scope := range []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating} {
		q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: strings.ToLower(string(scope))}, Spec: corev1.ResourceQuotaSpec{Hard: amounts("pods", "5"), Scopes: []corev1.ResourceQuotaScope{scope}}}
		if _, err := core.ResourceQuotas("default").Create(t.Context(), q, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	wants(t, e, "terminating", "pods=0")
	wants(t, e, "notterminating", "pods=1")
	if _, err := core.Pods("default").Patch(t.Context(), "p", types.MergePatchType, []byte(`{"spec":{"activeDeadlineSeconds":600}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	wants(t, e, "terminating", "pods=1")
	wants(t, e, "notterminating", "pods=0")
}
