package attachdetach

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func csi(name string, modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		AccessModes: modes, PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "a.example", VolumeHandle: "h-" + name}}}}
}

func attached(v *corev1.PersistentVolume, node string, yes bool) attachment {
	return attachment{&storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: attachmentName(v, node), UID: types.UID("uid-" + v.Name)},
		Spec:       storagev1.VolumeAttachmentSpec{NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &v.Name}},
		Status:     storagev1.VolumeAttachmentStatus{Attached: yes},
	}, v}
}

func node(changes ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: map[string]string{managed: "true"}}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	for _, c := range changes {
		c(n)
	}
	return n
}

func TestAttachmentName(t *testing.T) {
	// The sum of handle, driver and node is what drivers' sidecars compute too.
	if got := attachmentName(csi("v"), "n"); got != "csi-"+fmt.Sprintf("%x", sum("h-v"+"a.example"+"n")) || len(got) != 68 {
		t.Error(got)
	}
}

func TestDecide(t *testing.T) {
	v, w := csi("v", corev1.ReadWriteOnce), csi("w", corev1.ReadWriteMany)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}}
	now := time.Unix(10000, 0)
	reports := func(volumes ...*corev1.PersistentVolume) func(*corev1.Node) {
		return func(n *corev1.Node) {
			for _, v := range volumes {
				n.Status.VolumesAttached = append(n.Status.VolumesAttached, corev1.AttachedVolume{Name: uniqueName(v)})
			}
		}
	}
	uses := func(n *corev1.Node) { n.Status.VolumesInUse = []corev1.UniqueVolumeName{uniqueName(v)} }
	down := func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }
	tainted := func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
	}
	alien := func(n *corev1.Node) { n.Annotations = nil }
	going := attached(v, "n", true)
	going.DeletionTimestamp = &metav1.Time{Time: now}
	tests := []struct {
		name        string
		node        *corev1.Node
		needs       []*corev1.PersistentVolume
		attachments []attachment
		elsewhere   bool
		since       time.Duration // ago
		want        string
	}{
		{"nothing", node(), nil, nil, false, 0, ""},
		{"needed", node(), []*corev1.PersistentVolume{v}, nil, false, 0, "create v"},
		{"needed twice", node(), []*corev1.PersistentVolume{w, w}, nil, false, 0, "create w"},
		{"on its way", node(), []*corev1.PersistentVolume{v}, []attachment{attached(v, "n", false)}, false, 0, ""},
		{"there", node(), []*corev1.PersistentVolume{v}, []attachment{attached(v, "n", true)}, false, 0, "report [v]"},
		{"there, known", node(reports(v)), []*corev1.PersistentVolume{v}, []attachment{attached(v, "n", true)}, false, 0, ""},
		{"for one node only", node(), []*corev1.PersistentVolume{v}, nil, true, 0, "blocked v"},
		{"for many nodes", node(), []*corev1.PersistentVolume{w}, nil, true, 0, "create w"},
		{"a node that attaches itself", node(alien), []*corev1.PersistentVolume{v}, nil, false, 0, ""},
		{"a node that is gone", nil, []*corev1.PersistentVolume{v}, nil, false, 0, ""},
		{"of a node that is gone", nil, nil, []attachment{attached(v, "n", true)}, false, 0, "waiting v again 6m0s"},
		{"of a node that is gone for long", nil, nil, []attachment{attached(v, "n", true)}, false, 6 * time.Minute, "detach v by timeout"},
		{"of a node that is gone and had not mounted it", nil, nil, []attachment{attached(w, "n", true)}, false, 0, "detach w"},
		{"no longer needed", node(reports(v, w)), []*corev1.PersistentVolume{w}, []attachment{attached(v, "n", true), attached(w, "n", true)}, false, 0, "report [w] detach v"},
		{"never came, no longer needed", node(), nil, []attachment{attached(v, "n", false)}, false, 0, "detach v"},
		{"still mounted", node(reports(v), uses), nil, []attachment{attached(v, "n", true)}, false, time.Hour, "waiting v"},
		{"still mounted, the node is down", node(reports(v), uses, down), nil, []attachment{attached(v, "n", true)}, false, 0, "waiting v again 6m0s"},
		{"still mounted, the node is down for a while", node(reports(v), uses, down), nil, []attachment{attached(v, "n", true)}, false, 2 * time.Minute, "waiting v again 4m0s"},
		{"still mounted, the node is down for too long", node(reports(v), uses, down), nil, []attachment{attached(v, "n", true)}, false, 6 * time.Minute, "report [] detach v by timeout"},
		{"still mounted, out of service", node(reports(v), uses, down, tainted), nil, []attachment{attached(v, "n", true)}, false, 0, "report [] detach v by out-of-service"},
		{"still mounted, out of service for too long", node(reports(v), uses, down, tainted), nil, []attachment{attached(v, "n", true)}, false, 6 * time.Minute, "report [] detach v by timeout"},
		{"still mounted, out of service and ready", node(reports(v), uses, tainted), nil, []attachment{attached(v, "n", true)}, false, 6 * time.Minute, "report [] detach v by out-of-service"},
		{"out of service, but needed", node(reports(v), uses, down, tainted), []*corev1.PersistentVolume{v}, []attachment{attached(v, "n", true)}, false, 0, ""},
		{"being detached", node(reports(v)), nil, []attachment{going}, false, 0, "report []"},
		{"being detached, needed again", node(), []*corev1.PersistentVolume{v}, []attachment{going}, false, 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := state{name: "n", node: tt.node, attachments: tt.attachments, now: now}
			for _, v := range tt.needs {
				s.needs = append(s.needs, need{v, pod})
			}
			s.used = func(name corev1.UniqueVolumeName) bool {
				if tt.node == nil {
					return name == uniqueName(v)
				}
				return slices.Contains(tt.node.Status.VolumesInUse, name)
			}
			s.elsewhere = func(string) []*storagev1.VolumeAttachment {
				if tt.elsewhere {
					return []*storagev1.VolumeAttachment{{}}
				}
				return nil
			}
			s.since = func(string) time.Time {
				if tt.since == 0 {
					return time.Time{}
				}
				return now.Add(-tt.since)
			}
			names := map[string]string{attachmentName(v, "n"): "v", attachmentName(w, "n"): "w"}
			p := decide(s)
			var got []string
			for _, a := range p.create {
				got = append(got, "create "+*a.Spec.Source.PersistentVolumeName)
			}
			for _, n := range p.blocked {
				got = append(got, "blocked "+n.volume.Name)
			}
			if p.changed {
				list := []string{}
				for _, a := range p.report {
					list = append(list, strings.TrimPrefix(string(a.Name), "kubernetes.io/csi/a.example^h-"))
				}
				got = append(got, fmt.Sprint("report ", list))
			}
			for _, d := range p.detach {
				text := "detach " + names[d.name]
				if d.forced != "" {
					text += " by " + d.forced
				}
				got = append(got, text)
			}
			for _, n := range p.waiting {
				got = append(got, "waiting "+names[n])
			}
			if p.again > 0 {
				got = append(got, "again "+p.again.String())
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("got %q, want %q", strings.Join(got, " "), tt.want)
			}
		})
	}
}

func TestBlockedText(t *testing.T) {
	n := need{csi("v"), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}}}
	user := func(namespace, name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	tests := []struct {
		users []*corev1.Pod
		want  string
	}{
		{nil, "Volume is already exclusively attached to one node, waiting on detach before it can be attached to another node"},
		{[]*corev1.Pod{user("ns", "b"), user("ns", "a")}, "Volume is already used by pod(s) a, b"},
		{[]*corev1.Pod{user("other", "b")}, "Volume is already used by 1 pod(s) in different namespaces"},
		{[]*corev1.Pod{user("other", "b"), user("ns", "a")}, "Volume is already used by pod(s) a and 1 pod(s) in different namespaces"},
	}
	for _, tt := range tests {
		if got := blockedText(n, tt.users); got != `Waiting for detach for volume "v" `+tt.want {
			t.Error(got)
		}
	}
}
