package simulate

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// number gives objects of a prefix distinct names.
func (s *simulation) number(prefix string, n int) (from int) {
	from = s.names[prefix]
	s.names[prefix] += n
	return from
}

func (s *simulation) createNodes(ctx context.Context, o *CreateNodes) (string, error) {
	n, err := o.Count.Of(s.nodes)
	if err != nil {
		return "", err
	}
	from := s.number("node-", n)
	err = each(ctx, n, 0, func(ctx context.Context, i int) error {
		node := nodeFrom(o, from+i)
		if _, err := s.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			return err
		}
		if s.hollow != nil {
			s.hollow.add(node.Name, node.Labels[v1.LabelTopologyZone], i)
			return nil
		}
		// Nobody is there who would take it off again: every new node is tainted as not ready.
		_, err := s.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, []byte(`{"spec":{"taints":null}}`), metav1.PatchOptions{})
		return err
	})
	return fmt.Sprint(n), err
}

// nodeFrom is a node as upstream's scheduler_perf makes them, unless the template says otherwise.
func nodeFrom(o *CreateNodes, i int) *v1.Node {
	node := &v1.Node{}
	if o.Template != nil {
		node = o.Template.DeepCopy()
	}
	node.Name = fmt.Sprintf("node-%05d", i)
	if node.Labels == nil {
		node.Labels = map[string]string{}
	}
	node.Labels[v1.LabelHostname] = node.Name
	if len(o.Zones) > 0 {
		node.Labels[v1.LabelTopologyZone] = o.Zones[i%len(o.Zones)]
	}
	if node.Status.Capacity == nil {
		node.Status.Capacity = v1.ResourceList{v1.ResourceCPU: resource.MustParse("4"), v1.ResourceMemory: resource.MustParse("32Gi"), v1.ResourcePods: resource.MustParse("110")}
	}
	if node.Status.Allocatable == nil {
		node.Status.Allocatable = node.Status.Capacity
	}
	node.Status.Conditions = nodeConditions()
	return node
}

func (s *simulation) createNamespaces(ctx context.Context, o *CreateNamespaces) (string, error) {
	n, err := o.Count.Of(s.nodes)
	if err != nil {
		return "", err
	}
	from := s.number(o.Prefix+"-", n)
	err = each(ctx, n, 0, func(ctx context.Context, i int) error {
		name := fmt.Sprintf("%s-%d", o.Prefix, from+i)
		_, err := s.client.CoreV1().Namespaces().Create(ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: o.Labels}}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		return s.account(ctx, name)
	})
	return fmt.Sprint(n), err
}

// account waits until a namespace has its default service account, without which it takes no pods.
func (s *simulation) account(ctx context.Context, namespace string) error {
	for {
		_, err := s.client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// podFrom is a pod as upstream's scheduler_perf makes them, unless the template says otherwise.
func podFrom(template *v1.Pod) *v1.Pod {
	pod := &v1.Pod{}
	if template != nil {
		pod = template.DeepCopy()
	}
	if len(pod.Spec.Containers) == 0 {
		amounts := v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m"), v1.ResourceMemory: resource.MustParse("500Mi")}
		pod.Spec.Containers = []v1.Container{{
			Name: "pause", Image: "registry.k8s.io/pause:3.10", Ports: []v1.ContainerPort{{ContainerPort: 80}},
			Resources: v1.ResourceRequirements{Limits: amounts, Requests: amounts},
		}}
	}
	if pod.Spec.AutomountServiceAccountToken == nil {
		no := false // upstream's pods have no token either
		pod.Spec.AutomountServiceAccountToken = &no
	}
	return pod
}

func (s *simulation) createPods(ctx context.Context, o *CreatePods) (string, error) {
	n, err := o.Count.Of(s.nodes)
	if err != nil {
		return "", err
	}
	spaces, err := o.Namespaces.Of(s.nodes)
	if err != nil {
		return "", err
	}
	namespace := func(i int) string {
		if o.NamespacePrefix != "" {
			return fmt.Sprintf("%s-%d", o.NamespacePrefix, i%spaces)
		}
		return namespaceOr(o.Namespace)
	}
	if o.NamespacePrefix != "" {
		n *= spaces
	}
	template := podFrom(o.Template)
	if d := o.RunFor.Duration; d > 0 {
		metav1.SetMetaDataAnnotation(&template.ObjectMeta, runForAnnotation, d.String())
	}
	group := &podGroup{measured: o.Measure}
	from := s.number("pod-", n)
	created := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // also if it is given up
	s.group.Go(func() {
		created <- each(ctx, n, o.PerSecond, func(ctx context.Context, i int) error {
			pod := *template
			pod.Namespace, pod.Name = namespace(i), fmt.Sprintf("pod-%06d", from+i)
			s.pods.expect(pod.Namespace, pod.Name, group)
			return s.createPod(ctx, &pod)
		})
	})
	var failed error
	creating := true
	finished := func() bool {
		if creating {
			select {
			case failed = <-created:
				creating = false
			default:
			}
		}
		return !creating
	}
	err = s.until(ctx, func() (bool, error) {
		if !finished() || failed != nil {
			return false, failed
		}
		var scheduled, running int
		s.pods.now(func() { scheduled, running = group.scheduled, group.running })
		switch o.Wait {
		case "none":
			return true, nil
		case "running":
			return running >= n, nil
		}
		return scheduled >= n, nil
	}, func() string {
		return fmt.Sprintf("%d pods: %d have a node, %d run", n, group.scheduled, group.running)
	})
	return fmt.Sprint(n), err
}

// createPod makes a pod, whose like is not read back: nobody here wants to see what became of it.
func (s *simulation) createPod(ctx context.Context, pod *v1.Pod) error {
	if s.cfg.Send == nil {
		_, err := s.client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
		return err
	}
	pod.APIVersion, pod.Kind = "v1", "Pod"
	begin := time.Now()
	err := s.cfg.Send(ctx, "/api/v1/namespaces/"+pod.Namespace+"/pods", pod)
	s.requests.note(call{"create", "pods"}, time.Since(begin), err != nil)
	return err
}

func (s *simulation) deletePods(ctx context.Context, o *DeletePods) (string, error) {
	limit, err := o.Count.Of(s.nodes)
	if err != nil {
		return "", err
	}
	namespace := namespaceOr(o.Namespace)
	list, err := s.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	victims := list.Items
	if limit > 0 && limit < len(victims) {
		victims = victims[:limit]
	}
	err = each(ctx, len(victims), o.PerSecond, func(ctx context.Context, i int) error {
		return tolerate(s.client.CoreV1().Pods(namespace).Delete(ctx, victims[i].Name, metav1.DeleteOptions{}))
	})
	if err != nil || o.Wait == "none" {
		return fmt.Sprint(len(victims)), err
	}
	// Of what is left, which is less each time.
	left := victims
	err = s.until(ctx, func() (bool, error) {
		s.pods.now(func() {
			var still []v1.Pod
			for i := range left {
				if p := s.pods.known[namespace+"/"+left[i].Name]; p != nil && p.uid == left[i].UID {
					still = append(still, left[i])
				}
			}
			left = still
		})
		return len(left) == 0, nil
	}, func() string { return fmt.Sprintf("%d pods are still there", len(left)) })
	return fmt.Sprint(len(victims)), err
}

func (s *simulation) createDeployment(ctx context.Context, o *CreateDeployment) (string, error) {
	n, err := o.Replicas.Of(s.nodes)
	if err != nil {
		return "", err
	}
	replicas := int32(n)
	pod := podFrom(o.Template)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels["app"] = o.Name
	pod.Spec.AutomountServiceAccountToken = nil // as people's pods are
	_, err = s.client.AppsV1().Deployments(namespaceOr(o.Namespace)).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: o.Name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": o.Name}},
			Template: v1.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return s.available(ctx, namespaceOr(o.Namespace), o.Name, o.Wait, n)
}

func (s *simulation) scaleDeployment(ctx context.Context, o *ScaleDeployment) (string, error) {
	n, err := o.Replicas.Of(s.nodes)
	if err != nil {
		return "", err
	}
	spec := map[string]any{"replicas": n}
	if o.Restart {
		spec["template"] = map[string]any{"metadata": map[string]any{"annotations": map[string]string{"kubectl.kubernetes.io/restartedAt": time.Now().Format(time.RFC3339Nano)}}}
	}
	patch, err := json.Marshal(map[string]any{"spec": spec})
	if err != nil {
		return "", err
	}
	_, err = s.client.AppsV1().Deployments(namespaceOr(o.Namespace)).Patch(ctx, o.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return "", err
	}
	what, err := s.available(ctx, namespaceOr(o.Namespace), o.Name, o.Wait, n)
	if o.Restart {
		what += " (all of them new)"
	}
	return what, err
}

// namespaceOr is a namespace, or the default one.
func namespaceOr(name string) string {
	if name == "" {
		return v1.NamespaceDefault
	}
	return name
}

// available waits until a Deployment is as it was last asked to be, and nothing is left of what was before.
func (s *simulation) available(ctx context.Context, namespace, name, wait string, n int) (string, error) {
	what := fmt.Sprintf("%s/%s to %d", namespace, name, n)
	if wait == "none" {
		return what, nil
	}
	state := "nothing yet"
	err := s.until(ctx, func() (bool, error) {
		d, err := s.client.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		st := &d.Status
		state = fmt.Sprintf("%d replicas, %d updated, %d available of %d", st.Replicas, st.UpdatedReplicas, st.AvailableReplicas, n)
		k := int32(n)
		return st.ObservedGeneration >= d.Generation && st.Replicas == k && st.UpdatedReplicas == k && st.AvailableReplicas == k, nil
	}, func() string { return state })
	return what, err
}

// churn makes pods until ctx ends.
func (s *simulation) churn(ctx context.Context, o *Churn) {
	tick := time.NewTicker(o.Interval.Duration)
	defer tick.Stop()
	group := &podGroup{churn: true}
	made := make([][]string, len(o.Templates))
	pods := s.client.CoreV1().Pods(namespaceOr(o.Namespace))
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for i := range o.Templates {
			pod := podFrom(&o.Templates[i])
			pod.Name = fmt.Sprintf("churn-%d-%06d", i, n)
			s.pods.expect(namespaceOr(o.Namespace), pod.Name, group)
			if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
				if ctx.Err() == nil {
					s.cfg.Progress("      churn: %v", err)
				}
				continue
			}
			made[i] = append(made[i], pod.Name)
			if o.Mode == "recreate" && len(made[i]) > max(o.Number, 1) {
				if err := tolerate(pods.Delete(ctx, made[i][0], metav1.DeleteOptions{})); err != nil && ctx.Err() == nil {
					s.cfg.Progress("      churn: %v", err)
				}
				made[i] = made[i][1:]
			}
		}
	}
}

func (s *simulation) failNodes(beside context.Context, o *FailNodes) (string, error) {
	n, err := o.Count.Of(s.nodes)
	if err != nil {
		return "", err
	}
	stopped := s.hollow.stop(n, o.Zone)
	if d := o.For.Duration; d > 0 {
		s.group.Go(func() {
			select {
			case <-time.After(d):
			case <-beside.Done():
				return
			}
			if err := s.hollow.restart(beside, stopped); err != nil && beside.Err() == nil {
				s.cfg.Progress("      nodes come back: %v", err)
				return
			}
			s.cfg.Progress("      %d nodes are back", len(stopped))
		})
	}
	return fmt.Sprintf("%d of %s", len(stopped), orAll(o.Zone)), nil
}

func orAll(zone string) string {
	if zone == "" {
		return "all zones"
	}
	return "zone " + zone
}

func (s *simulation) barrier(ctx context.Context, o *Barrier) (string, error) {
	until := o.Until
	if until == "" {
		until = "scheduled"
	}
	err := s.until(ctx, func() (bool, error) {
		var ok bool
		s.pods.now(func() {
			all := s.pods.there
			switch until {
			case "running":
				ok = s.pods.running >= all
			case "attempted":
				ok = s.pods.attempted >= all
			default:
				ok = s.pods.scheduled >= all
			}
		})
		return ok, nil
	}, func() string {
		return fmt.Sprintf("%d pods, %d with a node, %d running", s.pods.there, s.pods.scheduled, s.pods.running)
	})
	return "until all are " + until, err
}
