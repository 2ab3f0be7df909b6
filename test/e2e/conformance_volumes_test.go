package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// look prints what is to be said of a file: its mode and its content.
const look = `look() { for f; do echo "$(stat -L -c %A $f) $(cat $f)"; done; }; `

// TestConformanceFilesOfObjects: config maps, secrets and the pod's own fields as files, alone and projected, with their modes.
func TestConformanceFilesOfObjects(t *testing.T) {
	s := newStage(t)
	s.config("map", map[string]string{"data-1": "value-1", "data-2": "value-2", "data-3": "value-3"})
	s.secret("secret", map[string]string{"data-1": "hidden-1"})
	_, err := s.c.CoreV1().ConfigMaps(s.ns).Create(s.ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "binary"}, Data: map[string]string{"text": "value"}, BinaryData: map[string][]byte{"bytes": {0xde, 0xca, 0xfe, 0xba, 0xd0, 0xfe, 0xff}},
	}, metav1.CreateOptions{})
	fine(t, err)
	// the same name in another namespace is another secret
	other := newUser(t)
	_, err = s.c.CoreV1().Secrets(other.ns).Create(s.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "secret"}, StringData: map[string]string{"data-1": "theirs"}}, metav1.CreateOptions{})
	fine(t, err)

	sources := []struct{ name, source string }{
		{"map", `configMap: {name: map}`},
		{"map-mode", `configMap: {name: map, defaultMode: 0400}`},
		{"map-items", `configMap: {name: map, items: [{key: data-2, path: path/to/data-2}]}`},
		{"map-item-mode", `configMap: {name: map, items: [{key: data-2, path: path/to/data-2, mode: 0400}]}`},
		{"binary", `configMap: {name: binary}`},
		{"secret", `secret: {secretName: secret}`},
		{"secret-mode", `secret: {secretName: secret, defaultMode: 0400}`},
		{"secret-items", `secret: {secretName: secret, items: [{key: data-1, path: new-path-data-1}]}`},
		{"secret-item-mode", `secret: {secretName: secret, items: [{key: data-1, path: new-path-data-1, mode: 0400}]}`},
		{"again", `secret: {secretName: secret}`},
		{"projected-map", `projected: {sources: [{configMap: {name: map}}]}`},
		{"projected-map-mode", `projected: {defaultMode: 0400, sources: [{configMap: {name: map}}]}`},
		{"projected-item-mode", `projected: {sources: [{configMap: {name: map, items: [{key: data-2, path: path/to/data-2, mode: 0400}]}}]}`},
		{"projected-secret", `projected: {sources: [{secret: {name: secret}}]}`},
		{"projected-secret-mode", `projected: {defaultMode: 0400, sources: [{secret: {name: secret, items: [{key: data-1, path: new-path-data-1}]}}]}`},
		{"all", `projected: {sources: [{downwardAPI: {items: [{path: podname, fieldRef: {fieldPath: metadata.name}}]}}, {secret: {name: secret, items: [{key: data-1, path: secret-data}]}}, {configMap: {name: map, items: [{key: data-1, path: configmap-data}]}}]}`},
		{"podname", `downwardAPI: {items: [{path: podname, fieldRef: {fieldPath: metadata.name}}]}`},
		{"podname-mode", `downwardAPI: {defaultMode: 0400, items: [{path: podname, fieldRef: {fieldPath: metadata.name}}]}`},
		{"podname-item-mode", `downwardAPI: {items: [{path: podname, fieldRef: {fieldPath: metadata.name}, mode: 0400}]}`},
		{"projected-podname", `projected: {sources: [{downwardAPI: {items: [{path: podname, fieldRef: {fieldPath: metadata.name}, mode: 0400}]}}]}`},
		{"projected-podname-mode", `projected: {defaultMode: 0400, sources: [{downwardAPI: {items: [{path: podname, fieldRef: {fieldPath: metadata.name}}]}}]}`},
	}
	var mounts, volumes strings.Builder
	for _, v := range sources {
		fmt.Fprintf(&mounts, "  - {name: %s, mountPath: /v/%s, readOnly: true}\n", v.name, v.name)
		fmt.Fprintf(&volumes, "- {name: %s, %s}\n", v.name, v.source)
	}
	spec := func(who, script string) string {
		return fmt.Sprintf("restartPolicy: Never\n%scontainers:\n- name: c\n  image: IMAGE\n  command: [sh, -c, %q]\n  volumeMounts:\n%svolumes:\n%s", who, look+script, mounts.String(), volumes.String())
	}
	s.run("root", spec("", `cd /v; look map/data-1 map-mode/data-1 map-items/path/to/data-2 map-item-mode/path/to/data-2 binary/text
od -An -tx1 binary/bytes; ls map-items; look secret/data-1 secret-mode/data-1 secret-items/new-path-data-1 secret-item-mode/new-path-data-1 again/data-1
look projected-map/data-3 projected-map-mode/data-3 projected-item-mode/path/to/data-2 projected-secret/data-1 projected-secret-mode/new-path-data-1
cat all/podname all/secret-data all/configmap-data; echo; look podname/podname podname-mode/podname podname-item-mode/podname projected-podname/podname projected-podname-mode/podname`))
	s.run("user", spec("securityContext: {runAsUser: 1000}\n", `cd /v; id -u; look map/data-1 map-items/path/to/data-2 projected-map/data-2 secret/data-1`))
	// With an fsGroup its members may read what they could not otherwise.
	s.run("group", spec("securityContext: {runAsUser: 1000, fsGroup: 1001}\n", `cd /v; look map/data-1 map-mode/data-1 secret-mode/data-1 projected-secret-mode/new-path-data-1 projected-podname/podname; stat -L -c %g secret-mode/data-1`))
	s.prints("root",
		`-rw-r--r-- value-1`, `-r-------- value-1`, `-rw-r--r-- value-2`, `-r-------- value-2`, `-rw-r--r-- value`, `de ca fe ba d0 fe ff`, `path`,
		`-rw-r--r-- hidden-1`, `-r-------- hidden-1`, `-rw-r--r-- hidden-1`, `-r-------- hidden-1`, `-rw-r--r-- hidden-1`,
		`-rw-r--r-- value-3`, `-r-------- value-3`, `-r-------- value-2`, `-rw-r--r-- hidden-1`, `-r-------- hidden-1`,
		`roothidden-1value-1`, `-rw-r--r-- root`, `-r-------- root`, `-r-------- root`, `-r-------- root`, `-r-------- root`)
	s.prints("user", `1000`, `-rw-r--r-- value-1`, `-rw-r--r-- value-2`, `-rw-r--r-- value-2`, `-rw-r--r-- hidden-1`)
	s.prints("group", `-rw-r--r-- value-1`, `-r--r----- value-1`, `-r--r----- hidden-1`, `-r--r----- hidden-1`, `-r--r----- group`, `1001`)
}

// TestConformanceFilesFollow: what changes, comes and goes is seen in the files; optional sources may be missing.
func TestConformanceFilesFollow(t *testing.T) {
	s := newStage(t)
	for _, name := range []string{"update", "delete"} {
		s.config(name, map[string]string{"data-1": "value-1"})
		s.secret(name, map[string]string{"data-1": "value-1"})
	}
	var mounts, volumes strings.Builder
	paths := []string{}
	for _, name := range []string{"update", "delete", "create"} {
		for kind, source := range map[string]string{
			"map": `configMap: {name: %s, optional: true}`, "secret": `secret: {secretName: %s, optional: true}`,
			"pmap": `projected: {sources: [{configMap: {name: %s, optional: true}}]}`, "psecret": `projected: {sources: [{secret: {name: %s, optional: true}}]}`,
		} {
			fmt.Fprintf(&mounts, "  - {name: %s-%s, mountPath: /v/%[2]s/%[1]s}\n", kind, name)
			fmt.Fprintf(&volumes, "- {name: %s-%s, %s}\n", kind, name, fmt.Sprintf(source, name))
			paths = append(paths, name+"/"+kind)
		}
	}
	pod := read[corev1.Pod](t, strings.ReplaceAll(fmt.Sprintf(`
metadata: {name: p, labels: {key1: value1, key2: value2}, annotations: {builder: bar}}
spec:
  containers:
  - name: c
    image: IMAGE
    command: [sleep, "3600"]
    volumeMounts:
    - {name: me, mountPath: /v/me}
    - {name: pme, mountPath: /v/pme}
%s
  volumes:
  - {name: me, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: annotations, fieldRef: {fieldPath: metadata.annotations}}]}}
  - {name: pme, projected: {sources: [{downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: annotations, fieldRef: {fieldPath: metadata.annotations}}]}}]}}
%s`, indent(mounts.String()), indent(volumes.String())), "IMAGE", busybox))
	s.create(pod)
	s.ready("p")
	state := func(want map[string]string) {
		t.Helper()
		var lines strings.Builder
		for _, p := range paths {
			fmt.Fprintf(&lines, "%s=%s\n", p, want[strings.Split(p, "/")[0]])
		}
		s.until("the files", func() (string, error) {
			r := s.do(nil, "exec", "p", "--", "sh", "-c", `cd /v; for p in `+strings.Join(paths, " ")+`; do echo $p=$(cd $p && for f in *; do [ -e $f ] && echo $f:$(cat $f); done); done`)
			if r.out == lines.String() {
				return "", nil
			}
			return r.out + r.err, nil
		})
	}
	state(map[string]string{"update": "data-1:value-1", "delete": "data-1:value-1"})
	maps, secrets := s.c.CoreV1().ConfigMaps(s.ns), s.c.CoreV1().Secrets(s.ns)
	for _, err := range []error{
		maps.Delete(s.ctx, "delete", metav1.DeleteOptions{}), secrets.Delete(s.ctx, "delete", metav1.DeleteOptions{}),
		s.patch("configmaps", "update", `{"data":{"data-1":null,"data-3":"value-3"}}`), s.patch("secrets", "update", `{"stringData":{"data-3":"value-3"},"data":{"data-1":null}}`),
		s.patch("pods", "p", `{"metadata":{"labels":{"key3":"value3"},"annotations":{"builder":"foo"}}}`),
	} {
		fine(t, err)
	}
	s.config("create", map[string]string{"data-1": "new"})
	s.secret("create", map[string]string{"data-1": "new"})
	state(map[string]string{"update": "data-3:value-3", "create": "data-1:new"})
	for _, volume := range []string{"me", "pme"} {
		s.says(`key3="value3"`, "exec", "p", "--", "cat", "/v/"+volume+"/labels")
		s.says(`builder="foo"`, "exec", "p", "--", "cat", "/v/"+volume+"/annotations")
	}
}

// patch is a merge patch.
func (s *stage) patch(resource, name, body string) error {
	return s.c.CoreV1().RESTClient().Patch(types.MergePatchType).Namespace(s.ns).Resource(resource).Name(name).Body([]byte(body)).Do(s.ctx).Error()
}

// indent puts lines one step to the right.
func indent(text string) string {
	return "  " + strings.TrimSuffix(strings.ReplaceAll(text, "\n", "\n  "), "  ")
}

// TestConformanceResourcesInFiles: a container's requests and limits, and the node's allocatable where there is no limit.
func TestConformanceResourcesInFiles(t *testing.T) {
	s := newStage(t)
	items := ""
	for _, resource := range []string{"limits.cpu", "requests.cpu", "limits.memory", "requests.memory"} {
		items += fmt.Sprintf("{path: %s, resourceFieldRef: {containerName: c, resource: %s}}, ", resource, resource)
	}
	spec := func(resources string) string {
		return fmt.Sprintf(`
restartPolicy: Never
containers:
- name: c
  image: IMAGE
  command: [sh, -c, "cd /v; for v in plain projected; do for f in limits.cpu limits.memory requests.cpu requests.memory; do cat $v/$f; echo; done; done; env | grep '^[LR]_' | sort"]
  %s
  volumeMounts: [{name: plain, mountPath: /v/plain}, {name: projected, mountPath: /v/projected}]
  env:
  - {name: L_CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
  - {name: L_MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
  - {name: R_CPU, valueFrom: {resourceFieldRef: {resource: requests.cpu}}}
  - {name: R_MEMORY, valueFrom: {resourceFieldRef: {resource: requests.memory}}}
volumes:
- {name: plain, downwardAPI: {items: [%[2]s]}}
- {name: projected, projected: {sources: [{downwardAPI: {items: [%[2]s]}}]}}
`, resources, items)
	}
	s.run("limited", spec(`resources: {requests: {memory: 32Mi, cpu: 250m}, limits: {memory: 64Mi, cpu: 1250m}}`))
	s.run("free", spec(""))
	files := []string{`2`, `67108864`, `1`, `33554432`}
	s.prints("limited", append(append(files, files...), `L_CPU=2`, `L_MEMORY=67108864`, `R_CPU=1`, `R_MEMORY=33554432`)...)
	nodes, err := s.c.CoreV1().Nodes().List(s.ctx, metav1.ListOptions{})
	fine(t, err)
	node := nodes.Items[0]
	cpu, memory := fmt.Sprint(node.Status.Allocatable.Cpu().Value()), fmt.Sprint(node.Status.Allocatable.Memory().Value())
	files = []string{cpu, memory, `0`, `0`}
	s.prints("free", append(append(files, files...), `L_CPU=`+cpu, `L_MEMORY=`+memory, `R_CPU=0`, `R_MEMORY=0`)...)
}

// TestConformanceEmptyDirectories: on disk and in memory, for root and for others, with the modes that are asked for.
func TestConformanceEmptyDirectories(t *testing.T) {
	s := newStage(t)
	text := `umask 0; for v in disk memory; do cd /v/$v; stat -c %A .; [ $v = memory ] && grep -q " /v/$v tmpfs " /proc/mounts && echo tmpfs
for m in 0644 0666 0777; do echo mount-tester new file > f$m; chmod $m f$m; stat -c '%A %u' f$m; cat f$m; done; done`
	for name, who := range map[string]string{"root": "", "user": "securityContext: {runAsUser: 1001}\n"} {
		s.run(name, who+fmt.Sprintf(`
restartPolicy: Never
containers: [{name: c, image: IMAGE, command: [sh, -c, %q], volumeMounts: [{name: disk, mountPath: /v/disk}, {name: memory, mountPath: /v/memory}]}]
volumes: [{name: disk, emptyDir: {}}, {name: memory, emptyDir: {medium: Memory}}]
`, text))
	}
	for name, uid := range map[string]string{"root": "0", "user": "1001"} {
		var want []string
		for _, first := range [][]string{{`drwxrwxrwx`}, {`drwxrwxrwt`, `tmpfs`}} {
			want = append(want, first...)
			for _, mode := range []string{"-rw-r--r--", "-rw-rw-rw-", "-rwxrwxrwx"} {
				want = append(want, mode+` `+uid, `mount-tester new file`)
			}
		}
		s.prints(name, want...)
	}
}

// TestConformanceSubPaths: of volumes that are written atomically, of a file over one that is there, from variables, and what is refused.
func TestConformanceSubPaths(t *testing.T) {
	s := newStage(t)
	s.config("map", map[string]string{"file": "from the map"})
	s.secret("secret", map[string]string{"file": "from the secret"})
	s.run("p", `
restartPolicy: Never
containers:
- name: c
  image: IMAGE
  command: [sh, -c, "for f in map secret me projected; do cat /v/$f; echo; done; cat /etc/resolv.conf; echo; cat /v/dir/file; echo; echo kept > /v/named/file; cat /v/all/p/file"]
  env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
  volumeMounts:
  - {name: map, mountPath: /v/map, subPath: file}
  - {name: secret, mountPath: /v/secret, subPath: file}
  - {name: me, mountPath: /v/me, subPath: downward/file}
  - {name: projected, mountPath: /v/projected, subPath: deep/file}
  - {name: projected, mountPath: /v/dir, subPath: deep}
  - {name: map, mountPath: /etc/resolv.conf, subPath: file}
  - {name: empty, mountPath: /v/named, subPathExpr: $(POD)}
  - {name: empty, mountPath: /v/all}
volumes:
- {name: map, configMap: {name: map}}
- {name: secret, secret: {secretName: secret}}
- {name: me, downwardAPI: {items: [{path: downward/file, fieldRef: {fieldPath: metadata.name}}]}}
- {name: projected, projected: {sources: [{configMap: {name: map, items: [{key: file, path: deep/file}]}}]}}
- {name: empty, emptyDir: {}}
`)
	for name, value := range map[string]string{"absolute": "/absolute", "backticks": "`touch /bad`"} {
		s.run(name, fmt.Sprintf(`
containers: [{name: c, image: IMAGE, command: [sleep, "3600"], env: [{name: V, value: %q}], volumeMounts: [{name: v, mountPath: /v, subPathExpr: $(V)}]}]
volumes: [{name: v, emptyDir: {}}]
`, value))
	}
	// one whose path is bad at first, until somebody corrects what it is made of
	late := read[corev1.Pod](t, strings.ReplaceAll(`
metadata: {name: late, annotations: {mypath: $(POD)}}
spec:
  containers:
  - name: c
    image: IMAGE
    command: [sh, -c, "echo here > /sub/file; sleep 3600"]
    env: [{name: PATHS, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['mypath']"}}}]
    volumeMounts: [{name: v, mountPath: /sub, subPathExpr: $(PATHS)/$(MISSING)}, {name: v, mountPath: /all}]
  volumes: [{name: v, emptyDir: {}}]
`, "IMAGE", busybox))
	late.Spec.Containers[0].VolumeMounts[0].SubPathExpr = "$(PATHS)"
	late.Annotations["mypath"] = "/bad"
	s.create(late)
	s.prints("p", `from the map`, `from the secret`, `p`, `from the map`, `from the map`, `from the map`, `kept`)
	fails := func(name, message string) {
		t.Helper()
		pod := s.follow(name, "to wait", func(p *corev1.Pod) bool {
			return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Reason == "CreateContainerConfigError"
		})
		has(t, pod.Status.ContainerStatuses[0].State.Waiting.Message, message)
	}
	fails("absolute", "must not be an absolute path")
	fails("late", "must not be an absolute path")
	fine(t, s.patch("pods", "late", `{"metadata":{"annotations":{"mypath":"good"}}}`))
	s.ready("late")
	s.says("here", "exec", "late", "--", "cat", "/all/good/file")
	s.follow("backticks", "to be settled", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && (p.Status.ContainerStatuses[0].State.Waiting == nil || p.Status.ContainerStatuses[0].State.Waiting.Reason == "CreateContainerConfigError")
	})
}

// TestConformanceManyVolumes: fifty config maps in each of five pods, beside a secret.
func TestConformanceManyVolumes(t *testing.T) {
	s := newStage(t)
	s.secret("secret", map[string]string{"data-1": "hidden"})
	var mounts, volumes strings.Builder
	for i := range 50 {
		s.config(fmt.Sprintf("map-%d", i), map[string]string{"data-1": fmt.Sprintf("value-%d", i)})
		fmt.Fprintf(&mounts, "{name: m%d, mountPath: /v/%[1]d}, ", i)
		fmt.Fprintf(&volumes, "{name: m%d, configMap: {name: map-%[1]d}}, ", i)
	}
	for i := range 5 {
		s.run(fmt.Sprintf("p%d", i), fmt.Sprintf(`
restartPolicy: Never
containers: [{name: c, image: IMAGE, command: [sh, -c, "cat /v/secret/data-1; echo; cat /v/[0-9]*/data-1 | wc -c"], volumeMounts: [{name: secret, mountPath: /v/secret}, %s]}]
volumes: [{name: secret, secret: {secretName: secret}}, %s]
`, mounts.String(), volumes.String()))
	}
	for i := range 5 {
		s.prints(fmt.Sprintf("p%d", i), `hidden`, `390`)
	}
}
