package e2e

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// gauge is a metrics adapter in a pod, which measures what the test says.
type gauge struct {
	*stage
	dir string
}

// measures sets all that the adapter measures from now on.
func (g *gauge) measures(values map[string]string) {
	g.t.Helper()
	data, err := json.Marshal(values)
	fine(g.t, err)
	next := filepath.Join(g.dir, "next")
	fine(g.t, os.WriteFile(next, data, 0o644))
	fine(g.t, os.Rename(next, filepath.Join(g.dir, "values.json")))
}

func newGauge(t *testing.T) *gauge {
	s := newStage(t)
	g := &gauge{s, s.m.Dir(t)}
	s.image("gauge:1", "gauge")
	ca := authority(t, time.Now().Add(-time.Hour))
	cert := issue(t, &ca, &x509.Certificate{
		Subject: pkix.Name{CommonName: "gauge"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"gauge." + s.ns + ".svc"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	s.secret("certs", map[string]string{"tls.crt": string(cert.certPEM), "tls.key": string(cert.keyPEM)})
	api, err := s.c.DiscoveryV1().EndpointSlices("default").Get(s.ctx, "kubernetes", metav1.GetOptions{})
	fine(t, err)
	s.apply(fmt.Sprintf(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: gauge}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: gauge}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: gauge}]
---
apiVersion: v1
kind: Service
metadata: {name: gauge}
spec: {selector: {app: gauge}, ports: [{port: 443, targetPort: 8443}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: gauge}
spec:
  selector: {matchLabels: {app: gauge}}
  template:
    metadata: {labels: {app: gauge}}
    spec:
      serviceAccountName: gauge
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: gauge:1
        args: [--api, "%s:%d"] # a service's address is not what is tested here
        readinessProbe: {httpGet: {port: 8443, scheme: HTTPS, path: /readyz}, periodSeconds: 1, timeoutSeconds: 60}
        volumeMounts: [{name: certs, mountPath: /certs, readOnly: true}, {name: values, mountPath: /values, readOnly: true}]
      volumes: [{name: certs, secret: {secretName: certs}}, {name: values, hostPath: {path: %q}}]
`, api.Endpoints[0].Addresses[0], *api.Ports[0].Port, g.dir))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the gauge says:\n%s", s.do(nil, "logs", "-l", "app=gauge").out)
		}
	})
	s.await("deployment/gauge", "condition=Available")
	for _, gv := range []struct{ group, version string }{{"custom.metrics.k8s.io", "v1beta2"}, {"external.metrics.k8s.io", "v1beta1"}} {
		name := gv.version + "." + gv.group
		t.Cleanup(func() {
			if r := s.do(nil, "delete", "apiservice", name, "--ignore-not-found"); r.code != 0 {
				t.Error(r.err)
			}
		})
		s.apply(fmt.Sprintf(`
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: %[1]s}
spec: {group: %[2]s, version: %[3]s, groupPriorityMinimum: 100, versionPriority: 100, caBundle: %[4]s, service: {name: gauge, namespace: %[5]s}}
`, name, gv.group, gv.version, base64.StdEncoding.EncodeToString(ca.certPEM), s.ns))
		s.await("apiservice/"+name, "condition=Available")
	}
	return g
}

// says waits until an autoscaler and its workload are as they should be: wanted pods, and what the path says of the autoscaler.
func (g *gauge) becomes(name string, replicas int32, path, want string) {
	g.t.Helper()
	g.until(fmt.Sprintf("%s with %d pods and %s %q", name, replicas, path, want), func() (string, error) {
		d, err := g.c.AppsV1().Deployments(g.ns).Get(g.ctx, name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		got := g.kubectl("get", "hpa", name, "-o", "jsonpath="+path)
		if *d.Spec.Replicas == replicas && d.Status.ReadyReplicas == replicas && got == want {
			return "", nil
		}
		return fmt.Sprintf("%d wanted, %d ready, %q", *d.Spec.Replicas, d.Status.ReadyReplicas, got), nil
	})
}

// TestAutoscalingByOtherMetrics: workloads follow what an adapter says of their pods, of another object and of something outside, within the
// tolerance and as fast as their behaviors let them.
func TestAutoscalingByOtherMetrics(t *testing.T) {
	g := newGauge(t)
	var cancel context.CancelFunc
	g.ctx, cancel = context.WithTimeout(t.Context(), 2*patience) // from now on: the adapter took its time
	defer cancel()
	g.measures(map[string]string{"pods/requests{verb=GET}": "140", "services/door/hits": "100", "queue{of=work}": "0"})
	for name, spec := range map[string]string{
		"pods": `
  maxReplicas: 3
  metrics: [{type: Pods, pods: {metric: {name: requests, selector: {matchLabels: {verb: GET}}}, target: {type: AverageValue, averageValue: "100"}}}]
  behavior: {scaleUp: {tolerance: 500m}}
`,
		"object": `
  maxReplicas: 5
  metrics: [{type: Object, object: {metric: {name: hits}, describedObject: {apiVersion: v1, kind: Service, name: door}, target: {type: Value, value: "10"}}}]
  behavior: {scaleUp: {policies: [{type: Pods, value: 1, periodSeconds: 1800}]}, scaleDown: {selectPolicy: Disabled, stabilizationWindowSeconds: 0}}
`,
		"outside": `
  minReplicas: 0
  maxReplicas: 3
  metrics: [{type: External, external: {metric: {name: queue, selector: {matchLabels: {of: work}}}, target: {type: AverageValue, averageValue: "5"}}}]
  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}
`,
	} {
		g.apply(fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: %[2]s, command: [sleep, '3600']}]}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: %[1]s}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: %[1]s}%[3]s`, name, busybox, spec))
	}
	condition := func(kind string) string {
		return fmt.Sprintf(`{.status.conditions[?(@.type==%q)].status} {.status.conditions[?(@.type==%[1]q)].reason}`, kind)
	}
	g.becomes("pods", 1, "{.status.currentMetrics[0].pods.current.averageValue}", "140") // 40 % too much is tolerated
	g.becomes("object", 2, condition("ScalingLimited"), "True ScaleUpLimit")             // ten times too much, but one pod in half an hour
	g.becomes("outside", 0, condition("ScaledToZero"), "True ScaledToZero")

	g.measures(map[string]string{"pods/requests{verb=GET}": "250", "services/door/hits": "1", "queue{of=work}": "7"})
	g.becomes("pods", 3, condition("ScalingActive"), "True ValidMetricFound")
	g.becomes("object", 2, "{.status.currentMetrics[0].object.current.value} "+condition("ScalingLimited"), "1 True ScaleDownLimit") // it may not shrink
	g.becomes("outside", 2, condition("ScaledToZero"), "False NotScaledToZero")

	g.measures(map[string]string{"services/door/hits": "1", "queue{of=work}": "7"})
	g.becomes("pods", 3, condition("ScalingActive"), "False FailedGetPodsMetric")
	g.shows([]string{"get", "events", "--field-selector=involvedObject.name=pods,involvedObject.kind=HorizontalPodAutoscaler"},
		`.* FailedGetPodsMetric .* nobody measures pods/requests\{verb=GET\}.*`)
	g.shows([]string{"get", "hpa"}, `object Deployment/object 1/10 1 5 2 \S+`, `outside Deployment/outside 3500m/5 \(avg\) 0 3 2 \S+`)
}
