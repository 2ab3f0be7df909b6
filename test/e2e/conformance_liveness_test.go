package e2e

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestConformanceLiveness: containers that answer badly over HTTP and gRPC, or not at all over TCP, are restarted and counted, again and
// again; those that answer well are left alone for as long.
func TestConformanceLiveness(t *testing.T) {
	s := newStage(t)
	s.image("pulse:1", "pulse", "--sick=/data/sick")
	probes := map[string]string{
		"http":       "httpGet: {port: 8080, path: /healthz}",
		"tcp":        "tcpSocket: {port: 8080}",
		"grpc":       "grpc: {port: 5000}",
		"grpc-named": "grpc: {port: 5000, service: beat}",
	}
	// Answers may take their time on a busy machine: that is no failure here.
	const often = "periodSeconds: 1, timeoutSeconds: 60, failureThreshold: 1"
	for name, probe := range probes {
		s.run("good-"+name, fmt.Sprintf("containers: [{name: c, image: pulse:1, readinessProbe: {%[1]s, %[2]s}, livenessProbe: {%[1]s, %[2]s}, startupProbe: {%[1]s, periodSeconds: 1, timeoutSeconds: 60, failureThreshold: 600}}]", probe, often))
	}
	// What answers badly from its start on: the file is there, or nobody listens on the port.
	s.config("sick", map[string]string{"sick": "yes"})
	for name, probe := range map[string]string{"http": probes["http"], "tcp": "tcpSocket: {port: 81}", "grpc": probes["grpc"], "grpc-unknown": "grpc: {port: 5000, service: other}"} {
		volumes := "volumes: [{name: sick, configMap: {name: sick}}]"
		mounts := "volumeMounts: [{name: sick, mountPath: /data}]"
		if name == "grpc-unknown" {
			volumes, mounts = "", ""
		}
		// It has to listen before it can answer badly.
		listens := 5000
		if name == "http" {
			listens = 8080
		}
		startup := fmt.Sprintf("startupProbe: {tcpSocket: {port: %d}, periodSeconds: 1, timeoutSeconds: 60, failureThreshold: 600}", listens)
		s.run("bad-"+name, fmt.Sprintf("terminationGracePeriodSeconds: 0\ncontainers: [{name: c, image: pulse:1, livenessProbe: {%s, %s}, %s, %s}]\n%s", probe, often, startup, mounts, volumes))
	}
	var seen = map[string]int32{}
	restarts := func(p *corev1.Pod) int32 {
		if len(p.Status.ContainerStatuses) == 0 {
			return 0
		}
		n := p.Status.ContainerStatuses[0].RestartCount
		if n < seen[p.Name] {
			t.Errorf("%s: %d restarts after %d", p.Name, n, seen[p.Name])
		}
		seen[p.Name] = n
		return n
	}
	for name := range probes {
		s.ready("good-" + name)
	}
	for _, name := range []string{"http", "tcp", "grpc", "grpc-unknown"} {
		s.follow("bad-"+name, "to be restarted twice", func(p *corev1.Pod) bool { return restarts(p) >= 2 })
	}
	s.shows([]string{"events", "--for", "pod/bad-http"}, `.* Warning Unhealthy .* Liveness probe failed: HTTP probe failed with statuscode: 500`)
	s.shows([]string{"events", "--for", "pod/bad-tcp"}, `.* Warning Unhealthy .* Liveness probe failed: dial tcp \S+:81: connect: connection refused`)
	s.shows([]string{"events", "--for", "pod/bad-grpc"}, `.* Warning Unhealthy .* Liveness probe failed: service unhealthy \(responded with "NOT_SERVING"\)`)
	for name := range probes {
		pod := s.follow("good-"+name, "to run", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
		if c := pod.Status.ContainerStatuses[0]; c.RestartCount != 0 || !c.Ready {
			t.Errorf("%s: %+v", pod.Name, c)
		}
	}
}
