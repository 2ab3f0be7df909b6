package e2e

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/test/image"
)

// TestConformanceImageVolumes: a pod has a volume out of an image that is pulled from a registry, each time if it says so.
func TestConformanceImageVolumes(t *testing.T) {
	s := newStage(t)
	l, err := s.m.NS.Listen("tcp", "127.0.0.1:0")
	fine(t, err)
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-ended
	})
	where := l.Addr().String() + "/e2e/data:1"
	transport := &http.Transport{DialContext: s.m.NS.Dial}
	t.Cleanup(transport.CloseIdleConnections)
	push := func(text string) {
		t.Helper()
		img, err := image.Build(image.Spec{Texts: map[string]string{"dir/file": text, "other": "x\n"}})
		fine(t, err)
		ref, err := name.ParseReference(where, name.Insecure)
		fine(t, err)
		fine(t, remote.Write(ref, img, remote.WithTransport(transport), remote.WithContext(s.ctx)))
	}
	run := func(name, policy string) {
		t.Helper()
		s.run(name, fmt.Sprintf(`
restartPolicy: Never
containers:
- name: c
  image: IMAGE
  command: [sh, -c, "cat /volume/dir/file /sub/file; touch /volume/new 2>/dev/null || echo read-only"]
  volumeMounts: [{name: v, mountPath: /volume}, {name: v, mountPath: /sub, subPath: dir}]
volumes: [{name: v, image: {reference: %q, pullPolicy: %s}}]
`, where, policy))
	}
	// Nobody has it yet: the pod waits and says so.
	run("early", "Always")
	s.shows([]string{"events", "--for", "pod/early"}, `.* Warning Failed .* Failed to pull image "`+where+`": .*`)
	push("one\n")
	run("first", "Always")
	s.prints("first", `one`, `one`, `read-only`)
	push("two\n")
	run("same", "IfNotPresent")
	s.prints("same", `one`, `one`, `read-only`)
	run("second", "Always")
	s.prints("second", `two`, `two`, `read-only`)
	s.prints("early", `two|one`, `two|one`, `read-only`)
	if p := s.ended("second", corev1.PodSucceeded); len(p.Status.ContainerStatuses) != 1 || len(p.Status.ContainerStatuses[0].VolumeMounts) < 2 {
		t.Errorf("%+v", p.Status.ContainerStatuses)
	}
}
