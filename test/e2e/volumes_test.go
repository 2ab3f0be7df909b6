package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// disks makes a storage class without a provisioner and volumes of it: the first a local one on the node, the others hostPath. Their names begin
// with the user's namespace; they go with the test.
func (u *user) disks(mode string, n int) (class string, names []string) {
	u.t.Helper()
	class = u.ns + "-" + strings.ToLower(mode)
	manifests := fmt.Sprintf("apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: %s}\nprovisioner: kubernetes.io/no-provisioner\nvolumeBindingMode: %s\n", class, mode)
	node := strings.TrimPrefix(strings.TrimSpace(u.kubectl("get", "nodes", "-o", "name")), "node/")
	remove := []string{"delete", "--ignore-not-found", "--wait=false", "storageclass/" + class}
	for i := range n {
		name, dir := fmt.Sprintf("%s-%d", class, i), u.m.Dir(u.t)
		source := fmt.Sprintf("hostPath: {path: %s, type: DirectoryOrCreate}", filepath.Join(dir, "below"))
		if i == 0 {
			source = fmt.Sprintf("local: {path: %s}\n  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [%s]}]}]}}", dir, node)
		}
		manifests += fmt.Sprintf("---\napiVersion: v1\nkind: PersistentVolume\nmetadata: {name: %s}\nspec:\n  storageClassName: %s\n  capacity: {storage: 1Gi}\n  accessModes: [ReadWriteOnce]\n  persistentVolumeReclaimPolicy: Retain\n  %s\n",
			name, class, source)
		names = append(names, name)
		remove = append(remove, "pv/"+name)
	}
	u.apply(manifests)
	u.t.Cleanup(func() { u.kubectl(remove...) })
	return class, names
}

func claim(name, class string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: %s}\nspec: {storageClassName: %s, accessModes: [ReadWriteOnce], resources: {requests: {storage: 500Mi}}}\n", name, class)
}

func claimUser(name, claim string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  terminationGracePeriodSeconds: 0\n  volumes: [{name: data, persistentVolumeClaim: {claimName: %s}}]\n"+
		"  containers: [{name: c, image: %s, command: [sh, -c, 'echo here > /data/f; exec sleep 3600'], volumeMounts: [{name: data, mountPath: /data}]}]\n", name, claim, busybox)
}

// TestStatefulVolumes: each pod of a set has a volume of its own, which outlives it, and goes when the set says so.
func TestStatefulVolumes(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	class, volumes := u.disks("Immediate", 2)
	u.apply(fmt.Sprintf(`apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: db
  selector: {matchLabels: {app: db}}
  persistentVolumeClaimRetentionPolicy: {whenScaled: Delete, whenDeleted: Delete}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {storageClassName: %s, accessModes: [ReadWriteOnce], resources: {requests: {storage: 500Mi}}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: c, image: %s, command: [sh, -c, 'hostname >> /data/log; exec sleep 3600'], volumeMounts: [{name: data, mountPath: /data}]}
`, class, busybox))
	u.kubectl("rollout", "status", "statefulset/db", "--timeout="+patience.String())
	like(t, u.kubectl("get", "pvc"), `NAME STATUS VOLUME CAPACITY ACCESS MODES STORAGECLASS VOLUMEATTRIBUTESCLASS AGE`,
		`data-db-0 Bound `+class+`-\d 1Gi RWO `+class+` <unset> \S+`, `data-db-1 Bound `+class+`-\d 1Gi RWO `+class+` <unset> \S+`)
	first := u.kubectl("get", "pod", "db-0", "-o", "jsonpath={.metadata.uid}")
	u.kubectl("delete", "pod", "db-0")
	u.kubectl("wait", "pod/db-0", "--for=create", "--timeout="+patience.String())
	u.await("pod/db-0", "condition=Ready")
	if u.kubectl("get", "pod", "db-0", "-o", "jsonpath={.metadata.uid}") == first {
		t.Error("db-0 was not made again")
	}
	if got := u.says("db-0\ndb-0", "exec", "db-0", "--", "cat", "/data/log"); strings.TrimSpace(got) != "db-0\ndb-0" {
		t.Errorf("the volume of db-0 holds %q", got)
	}
	u.kubectl("scale", "statefulset/db", "--replicas=1")
	u.await("pvc/data-db-1", "delete")
	u.await("pvc/data-db-0", "jsonpath={.status.phase}=Bound")
	u.kubectl("delete", "statefulset", "db")
	u.await("pvc/data-db-0", "delete")
	for _, v := range volumes {
		u.await("pv/"+v, "jsonpath={.status.phase}=Released")
	}
}

// TestStorageInUse: what is used stays although it is deleted, until it is not used any more.
func TestStorageInUse(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	class, volumes := u.disks("Immediate", 1)
	u.apply(claim("c", class) + claimUser("p", "c"))
	u.await("pod/p", "condition=Ready")
	u.says("here", "exec", "p", "--", "cat", "/data/f")
	u.await("pvc/c", `jsonpath={.status.conditions[?(@.type=="Unused")].status}=False`)
	u.kubectl("delete", "pvc", "c", "--wait=false")
	u.kubectl("delete", "pv", volumes[0], "--wait=false")
	u.says("Terminating", "get", "pvc", "c")
	u.says("Terminating", "get", "pv", volumes[0])
	u.says("here", "exec", "p", "--", "cat", "/data/f")
	u.kubectl("delete", "pod", "p")
	u.await("pvc/c", "delete")
	u.await("pv/"+volumes[0], "delete")
}

// TestFirstConsumer: a claim of a class that waits gets its volume with its first pod.
func TestFirstConsumer(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	class, volumes := u.disks("WaitForFirstConsumer", 1)
	u.apply(claim("c", class))
	u.says("waiting for first consumer to be created before binding", "describe", "pvc", "c")
	u.await("pv/"+volumes[0], "jsonpath={.status.phase}=Available")
	u.await("pvc/c", "jsonpath={.status.phase}=Pending")
	u.apply(claimUser("p", "c"))
	u.await("pod/p", "condition=Ready")
	u.await("pvc/c", "jsonpath={.status.phase}=Bound")
	like(t, u.kubectl("get", "pv", volumes[0], "-o", "jsonpath={.spec.claimRef.namespace}/{.spec.claimRef.name}"), u.ns+"/c")
	u.says("here", "exec", "p", "--", "cat", "/data/f")
}
