package world

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/controllertest"
	"github.com/celox/celox/internal/controller/cronjob"
	"github.com/celox/celox/internal/controller/daemonset"
	"github.com/celox/celox/internal/controller/deployment"
	"github.com/celox/celox/internal/controller/job"
	"github.com/celox/celox/internal/controller/replicaset"
	"github.com/celox/celox/internal/controller/statefulset"
)

// maker is a controller that makes pods, or what makes pods, alone with the API.
type maker struct {
	name string
	make func(e *controllertest.Env, c kubernetes.Interface, r record.EventRecorder) ([]runner, error)
	// create makes an object of its kind that wants two of what it makes, with a selector for app as pods have it (see template); a Job, and its name.
	create func(c kubernetes.Interface, name string) error
	// made is the resource of what it makes.
	made string
	// adopts says that it takes orphans which match its selector.
	adopts bool
}

func makers() []maker {
	one := func(f func(e *controllertest.Env, c kubernetes.Interface, r record.EventRecorder) (runner, error)) func(*controllertest.Env, kubernetes.Interface, record.EventRecorder) ([]runner, error) {
		return func(e *controllertest.Env, c kubernetes.Interface, r record.EventRecorder) ([]runner, error) {
			made, err := f(e, c, r)
			return []runner{made}, err
		}
	}
	clk := clock.RealClock{}
	ctx := context.Background()
	named := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Namespace: "default"} }
	always := func() corev1.PodTemplateSpec { return template("v1", corev1.RestartPolicyAlways) }
	return []maker{
		{"ReplicaSet", one(func(e *controllertest.Env, c kubernetes.Interface, r record.EventRecorder) (runner, error) {
			return replicaset.New(c, e.Informers, r, clk, nil, nil)
		}), func(c kubernetes.Interface, name string) error {
			_, err := c.AppsV1().ReplicaSets("default").Create(ctx, &appsv1.ReplicaSet{ObjectMeta: named(name), Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To(int32(2)), Selector: selector, Template: always()}}, o)
			return err
		}, "pods", true},
		{"ReplicationController", one(func(e *controllertest.Env, c kubernetes.Interface, r record.EventRecorder) (runner, error) {
			return replicaset.NewReplication(c, e.Informers, r, clk, nil, nil)
		}), func(c kubernetes.Interface, name string) error {
			t := always()
			_, err := c.CoreV1().ReplicationControllers("default").Create(ctx, &corev1.ReplicationController{ObjectMeta: named(name), Spec: corev1.ReplicationControllerSpec{Replicas: ptr.To(int32(2)), Selector: app, Template: &t}}, o)
			return err
		}, "pods", true},
		{"StatefulSet", one(func(e *controllertest.Env, c kubernetes.Interface, r record.EventRecorder) (runner, error) {
			return statefulset.New(c, e.Informers, r, clk, nil, nil)
		}), func(c kubernetes.Interface, name string) error {
			_, err := c.AppsV1().StatefulSets("default").Create(ctx, &appsv1.StatefulSet{ObjectMeta: named(name), Spec: appsv1.StatefulSetSpec{
				Replicas: ptr.To(int32(2)), Selector: selector, ServiceName: "a", PodManagementPolicy: appsv1.ParallelPodManagement, Template: always()}}, o)
			return err
		}, "pods", true},
		{"DaemonSet", one(func(e *controllertest.Env, c kubernetes.Interface, r record.EventRecorder) (runner, error) {
			return daemonset.New(c, e.Informers, r, clk, nil, nil)
		}), func(c kubernetes.Interface, name string) error {
			_, err := c.AppsV1().DaemonSets("default").Create(ctx, &appsv1.DaemonSet{ObjectMeta: named(name), Spec: appsv1.DaemonSetSpec{Selector: selector, Template: always()}}, o)
			return err
		}, "pods", true},
		{"Job", one(func(e *controllertest.Env, c kubernetes.Interface, r record.EventRecorder) (runner, error) {
			return job.New(c, e.Informers, r, clk, nil, nil)
		}), func(c kubernetes.Interface, name string) error {
			_, err := c.BatchV1().Jobs("default").Create(ctx, &batchv1.Job{ObjectMeta: named(name), Spec: batchv1.JobSpec{
				Parallelism: ptr.To(int32(2)), Completions: ptr.To(int32(2)), ManualSelector: ptr.To(true), Selector: selector, Template: template("v1", corev1.RestartPolicyNever)}}, o)
			return err
		}, "pods", true},
		{"Deployment", func(e *controllertest.Env, c kubernetes.Interface, r record.EventRecorder) ([]runner, error) {
			d, err := deployment.New(c, e.Informers, r, clk, nil, nil)
			if err != nil {
				return nil, err
			}
			sets, err := replicaset.New(c, e.Informers, r, clk, nil, nil)
			return []runner{d, sets}, err
		}, func(c kubernetes.Interface, name string) error {
			_, err := c.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{ObjectMeta: named(name), Spec: appsv1.DeploymentSpec{Replicas: ptr.To(int32(2)), Selector: selector, Template: always()}}, o)
			return err
		}, "pods", false},
		{"CronJob", one(func(e *controllertest.Env, c kubernetes.Interface, r record.EventRecorder) (runner, error) {
			return cronjob.New(c, e.Informers, r, clk, nil, nil)
		}), func(c kubernetes.Interface, name string) error {
			_, err := c.BatchV1().CronJobs("default").Create(ctx, &batchv1.CronJob{ObjectMeta: named(name), Spec: batchv1.CronJobSpec{
				Schedule: "0 * * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template("v1", corev1.RestartPolicyNever)}}}}, o)
			return err
		}, "jobs", false},
	}
}

// gate refuses creations while it is shut, and counts what its client writes.
type gate struct {
	mu      sync.Mutex // guards all below
	shut    string     // the resource that none can be made of; "" is open
	refused int
	writes  []string
}

func (g *gate) refuse(r *http.Request) error {
	if r.Method == http.MethodGet {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != "" && r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/"+g.shut) {
		g.refused++
		return apierrors.NewForbidden(schema.GroupResource{Resource: g.shut}, fmt.Sprint("x-", g.refused), errors.New("exceeded quota: q"))
	}
	g.writes = append(g.writes, r.Method+" "+r.URL.Path)
	return nil
}

func (g *gate) set(shut string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
}

func (g *gate) take() (refused int, writes []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	refused, writes = g.refused, g.writes
	g.refused, g.writes = 0, nil
	return refused, writes
}

// alone runs play with one controller, two nodes and nobody else. Told are the events so far.
func (m maker) alone(t *testing.T, play func(e *controllertest.Env, g *gate, told func() []string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		// So that a CronJob's hour is far.
		time.Sleep(time.Until(time.Now().Truncate(time.Hour).Add(time.Hour + time.Minute)))
		e := controllertest.Start(t)
		for i := range 2 {
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node-", i)}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
			if _, err := e.Client.CoreV1().Nodes().Create(context.Background(), n, o); err != nil {
				t.Fatal(err)
			}
		}
		g, recorder := &gate{}, record.NewFakeRecorder(1<<12)
		all, err := m.make(e, e.Through(t, g.refuse), recorder)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			e.Run(t, r)
		}
		play(e, g, func() (out []string) {
			for {
				select {
				case event := <-recorder.Events:
					out = append(out, event)
				default:
					return out
				}
			}
		})
	})
}

// made are the names of what the controllers made, with whom they belong to.
func (m maker) owned(t *testing.T, e *controllertest.Env) map[string]string {
	t.Helper()
	out := map[string]string{}
	note := func(o metav1.Object) {
		owner := ""
		if ref := metav1.GetControllerOf(o); ref != nil {
			owner = ref.Name
		}
		out[o.GetName()] = owner
	}
	if m.made == "jobs" {
		list, err := e.Client.BatchV1().Jobs("default").List(context.Background(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			note(&list.Items[i])
		}
		return out
	}
	list, err := e.Client.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		note(&list.Items[i])
	}
	return out
}

// A quota, or whoever else refuses, is asked ever less often, and every refusal is told; nothing else is written meanwhile. When it no longer refuses all
// is made, and then there is quiet.
func TestRefusalsBackOff(t *testing.T) {
	for _, m := range makers() {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			m.alone(t, func(e *controllertest.Env, g *gate, told func() []string) {
				g.set(m.made)
				if err := m.create(e.Client, "a"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				refused, writes := g.take()
				// From 5 ms on each pause is twice the one before, up to 1000 s: 18 tries to get there, and then one each 1000 s; a CronJob has two hours' worth.
				// A Job's pauses are from 1 s to one minute.
				most := 60
				if m.name == "Job" {
					most = 130
				}
				if refused < 10 || refused > most {
					t.Errorf("%d tries in two hours", refused)
				}
				if len(writes) > 12 {
					t.Errorf("%d writes although nothing happened: %q", len(writes), writes)
				}
				events := told()
				n := 0
				for _, event := range events {
					if strings.HasPrefix(event, "Warning FailedCreate ") && strings.Contains(event, "is forbidden: exceeded quota: q") {
						n++
					}
				}
				if n != refused {
					t.Errorf("%d refusals, %d events: %q", refused, n, events)
				}
				m.failing(t, e)
				g.set("")
				time.Sleep(time.Hour)
				synctest.Wait()
				want := 2
				if m.made == "jobs" {
					want = 1 // those of the hours before are past
				}
				if got := m.owned(t, e); len(got) < want || m.made == "pods" && len(got) != want {
					t.Errorf("made %v", got)
				}
				g.take()
				if m.name == "CronJob" {
					return // it has a Job each hour
				}
				time.Sleep(3 * time.Hour)
				synctest.Wait()
				if refused, writes := g.take(); refused+len(writes) > 0 {
					t.Errorf("%d writes in hours in which nothing happened: %q", len(writes), writes)
				}
			})
		})
	}
}

// failing checks what the status says of the refusal, where it does.
func (m maker) failing(t *testing.T, e *controllertest.Env) {
	t.Helper()
	ctx := context.Background()
	begin := time.Now().Add(-2 * time.Hour)
	const want = `is forbidden: exceeded quota: q`
	check := func(reason, message string) {
		t.Helper()
		if reason != "FailedCreate" || !strings.HasPrefix(message, `pods "x-`) || !strings.HasSuffix(message, want) {
			t.Errorf("the condition says %q: %q", reason, message)
		}
	}
	switch m.name {
	case "ReplicaSet", "Deployment":
		list, err := e.Client.AppsV1().ReplicaSets("default").List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != 1 || len(list.Items[0].Status.Conditions) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		check(list.Items[0].Status.Conditions[0].Reason, list.Items[0].Status.Conditions[0].Message)
	case "ReplicationController":
		rc, err := e.Client.CoreV1().ReplicationControllers("default").Get(ctx, "a", metav1.GetOptions{})
		if err != nil || len(rc.Status.Conditions) != 1 {
			t.Fatalf("%+v, %v", rc, err)
		}
		check(rc.Status.Conditions[0].Reason, rc.Status.Conditions[0].Message)
	}
	if m.name == "Deployment" {
		// Another look changes nothing of it.
		if _, err := e.Client.AppsV1().Deployments("default").Patch(ctx, "a", types.MergePatchType, []byte(`{"metadata":{"annotations":{"a":"b"}}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		d, err := e.Client.AppsV1().Deployments("default").Get(ctx, "a", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(d.Status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == appsv1.DeploymentReplicaFailure })
		if i < 0 {
			t.Fatalf("conditions %+v", d.Status.Conditions)
		}
		c := d.Status.Conditions[i]
		check(c.Reason, c.Message)
		if c.LastTransitionTime.After(begin.Add(time.Minute)) || c.LastUpdateTime.After(begin.Add(time.Minute)) {
			t.Errorf("it was so for two hours, but the condition says %+v", c)
		}
	}
}

// orphan is a pod that matches everybody's selector.
func orphan(t *testing.T, e *controllertest.Env, name string) {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: app}, Spec: template("v1", corev1.RestartPolicyNever).Spec}
	p.Spec.NodeName = "node-" + name[len(name)-1:]
	if _, err := e.Client.CoreV1().Pods("default").Create(context.Background(), p, o); err != nil {
		t.Fatal(err)
	}
}

// Orphans that match are taken, by one of those that they match; the other makes its own. Who is about to go takes none, and what no longer matches is let go.
func TestOrphans(t *testing.T) {
	for _, m := range makers() {
		if !m.adopts {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			m.alone(t, func(e *controllertest.Env, g *gate, _ func() []string) {
				for i := range 2 {
					orphan(t, e, fmt.Sprint("a-", i)) // as a StatefulSet calls them
				}
				settle := func() {
					time.Sleep(time.Minute)
					synctest.Wait()
				}
				if err := m.create(e.Client, "a"); err != nil {
					t.Fatal(err)
				}
				settle()
				if got := m.owned(t, e); len(got) != 2 || got["a-0"] != "a" || got["a-1"] != "a" {
					t.Fatalf("pods and their owners: %v", got)
				}
				// The second finds nothing to take.
				if err := m.create(e.Client, "b"); err != nil {
					t.Fatal(err)
				}
				settle()
				count := func(owner string) (n int) {
					for _, o := range m.owned(t, e) {
						if o == owner {
							n++
						}
					}
					return n
				}
				if count("a") != 2 || count("b") != 2 || count("") != 0 {
					t.Fatalf("pods and their owners: %v", m.owned(t, e))
				}
				// What leaves the selector is let go, and another takes its place.
				name := "a-1"
				if _, err := e.Client.CoreV1().Pods("default").Patch(context.Background(), name, types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"other"}}}`), metav1.PatchOptions{}); err != nil {
					t.Fatal(err)
				}
				settle()
				want := 2
				if m.name == "StatefulSet" {
					want = 1 // its name is taken
				}
				if got := m.owned(t, e); got[name] != "" || count("a") != want {
					t.Errorf("pods and their owners: %v", got)
				}
				g.take()
				time.Sleep(3 * time.Hour)
				synctest.Wait()
				if _, writes := g.take(); len(writes) > 30 {
					t.Errorf("%d writes in hours in which nothing happened: %q", len(writes), writes[:30])
				}
			})
		})
	}
}

// Who is being deleted takes nobody in.
func TestOrphansOfTheDying(t *testing.T) {
	for _, m := range makers() {
		if !m.adopts {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			m.alone(t, func(e *controllertest.Env, g *gate, _ func() []string) {
				g.set("pods") // it makes none of its own
				if err := m.create(e.Client, "a"); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				foreground := metav1.DeletePropagationForeground // nobody is there to end it
				if err := m.delete(e.Client, "a", metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				for i := range 2 {
					orphan(t, e, fmt.Sprint("a-", i))
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if got := m.owned(t, e); got["a-0"] != "" || got["a-1"] != "" {
					t.Errorf("pods and their owners: %v", got)
				}
			})
		})
	}
}

func (m maker) delete(c kubernetes.Interface, name string, opts metav1.DeleteOptions) error {
	ctx := context.Background()
	switch m.name {
	case "ReplicaSet":
		return c.AppsV1().ReplicaSets("default").Delete(ctx, name, opts)
	case "ReplicationController":
		return c.CoreV1().ReplicationControllers("default").Delete(ctx, name, opts)
	case "StatefulSet":
		return c.AppsV1().StatefulSets("default").Delete(ctx, name, opts)
	case "DaemonSet":
		return c.AppsV1().DaemonSets("default").Delete(ctx, name, opts)
	case "Job":
		return c.BatchV1().Jobs("default").Delete(ctx, name, opts)
	}
	return fmt.Errorf("no %s is deleted here", m.name)
}

// A name that somebody else has is waited for, without haste; a Deployment takes another name, a CronJob lets the time pass.
func TestNamesThatAreTaken(t *testing.T) {
	for _, m := range makers() {
		switch m.name {
		case "StatefulSet", "Deployment", "CronJob":
		default:
			continue // the server draws the names
		}
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			m.alone(t, func(e *controllertest.Env, g *gate, told func() []string) {
				ctx := context.Background()
				foreign := metav1.ObjectMeta{Name: "a-0", OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "m", UID: "m", Controller: ptr.To(true)}}}
				var err error
				switch m.name {
				case "StatefulSet":
					_, err = e.Client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: foreign, Spec: template("v1", corev1.RestartPolicyAlways).Spec}, o)
				case "CronJob":
					foreign.Name = fmt.Sprint("a-", time.Now().Truncate(time.Hour).Add(time.Hour).Unix()/60)
					_, err = e.Client.BatchV1().Jobs("default").Create(ctx, &batchv1.Job{ObjectMeta: foreign, Spec: batchv1.JobSpec{Template: template("v1", corev1.RestartPolicyNever)}}, o)
				case "Deployment":
					err = m.takeName(e, foreign)
				}
				if err != nil {
					t.Fatal(err)
				}
				told()
				g.take()
				if err := m.create(e.Client, "a"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				_, writes := g.take()
				if len(writes) > 60 {
					t.Errorf("%d writes in two hours: %q", len(writes), writes[:60])
				}
				owners := m.owned(t, e)
				switch m.name {
				case "StatefulSet":
					if owners["a-0"] != "m" || owners["a-1"] != "a" { // in parallel the second does not wait for the first
						t.Errorf("pods and their owners: %v", owners)
					}
					if err := e.Client.CoreV1().Pods("default").Delete(ctx, "a-0", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Hour)
					synctest.Wait()
					if owners := m.owned(t, e); owners["a-0"] != "a" {
						t.Errorf("pods and their owners: %v", owners)
					}
				case "CronJob":
					n := 0
					for name, owner := range owners {
						if name != foreign.Name && owner == "a" {
							n++
						}
					}
					if owners[foreign.Name] != "m" || n != 1 { // the next hour has its Job
						t.Errorf("jobs and their owners: %v", owners)
					}
				case "Deployment":
					d, err := e.Client.AppsV1().Deployments("default").Get(ctx, "a", metav1.GetOptions{})
					if err != nil || ptr.Deref(d.Status.CollisionCount, 0) != 1 || len(owners) != 2 {
						t.Errorf("%+v, %v, pods and their owners: %v", d.Status, err, owners)
					}
				}
			})
		})
	}
}

// takeName gives the name that the set of a Deployment would have to another one.
func (m maker) takeName(e *controllertest.Env, meta metav1.ObjectMeta) error {
	ctx := context.Background()
	if err := m.create(e.Client, "a"); err != nil {
		return err
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	sets := e.Client.AppsV1().ReplicaSets("default")
	list, err := sets.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 {
		return fmt.Errorf("%d sets, %w", len(list.Items), err)
	}
	meta.Name = list.Items[0].Name
	if err := e.Client.AppsV1().Deployments("default").Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := sets.Delete(ctx, meta.Name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := e.Client.CoreV1().Pods("default").DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}, metav1.ListOptions{}); err != nil {
		return err
	}
	synctest.Wait()
	t := template("other", corev1.RestartPolicyAlways)
	t.Labels = map[string]string{"app": "other"}
	_, err = sets.Create(ctx, &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To(int32(0)), Selector: &metav1.LabelSelector{MatchLabels: t.Labels}, Template: t}}, o)
	return err
}
