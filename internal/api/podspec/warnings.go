package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// Warnings tells of what a template says that works but shouldn't be relied on; p is the path of the template. What old (nil
// on create) said as well is told again: the server asks only for changed specs.
func Warnings(t, old *corev1.PodTemplateSpec, p *field.Path) []string {
	return (&warnings{meta: &t.ObjectMeta, spec: &t.Spec, path: p, template: true}).collect()
}

// PodWarnings is Warnings for a pod.
func PodWarnings(pod *corev1.Pod) []string {
	return (&warnings{meta: &pod.ObjectMeta, spec: &pod.Spec}).collect()
}

type warnings struct {
	meta     *metav1.ObjectMeta
	spec     *corev1.PodSpec
	path     *field.Path // nil for a pod
	template bool
	out      []string
}

func (w *warnings) add(p *field.Path, format string, args ...any) {
	w.out = append(w.out, p.String()+": "+fmt.Sprintf(format, args...))
}

// at is a path below the pod or template.
func (w *warnings) at(name string, more ...string) *field.Path {
	if w.path == nil {
		return field.NewPath(name, more...)
	}
	return w.path.Child(name, more...)
}

// container is the path of a container.
func (w *warnings) container(c located) *field.Path { return c.path(w.at("spec")) }

func (w *warnings) collect() []string {
	if !w.template {
		for _, c := range containersOf(w.spec) {
			w.appArmor(c)
		}
	}
	w.nodeLabels()
	w.annotations()
	w.volumes()
	w.overlaps()
	w.duplicates()
	for _, name := range wholeBytes {
		w.fraction(w.spec.Overhead, name, func() *field.Path { return w.at("spec", "overhead") })
	}
	w.containers()
	w.ports()
	if g := w.spec.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		w.add(w.at("spec", "terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	w.affinity()
	w.addresses()
	return w.out
}

// addresses tells of IP addresses that are written in an unusual way.
func (w *warnings) addresses() {
	if d := w.spec.DNSConfig; d != nil {
		for i, ip := range d.Nameservers {
			w.out = append(w.out, validation.GetWarningsForIP(w.at("spec", "dnsConfig", "nameservers").Index(i), ip)...)
		}
	}
	for i := range w.spec.HostAliases {
		w.out = append(w.out, validation.GetWarningsForIP(w.at("spec", "hostAliases").Index(i).Child("ip"), w.spec.HostAliases[i].IP)...)
	}
}

// OldNodeLabel tells what to use instead of a label that nodes once had; false for any other.
func OldNodeLabel(key string) (string, bool) {
	const text = `deprecated since %s; use "%s" instead`
	switch key {
	case "beta.kubernetes.io/arch":
		return fmt.Sprintf(text, "v1.14", corev1.LabelArchStable), true
	case "beta.kubernetes.io/os":
		return fmt.Sprintf(text, "v1.14", corev1.LabelOSStable), true
	case corev1.LabelFailureDomainBetaRegion:
		return fmt.Sprintf(text, "v1.17", corev1.LabelTopologyRegion), true
	case corev1.LabelFailureDomainBetaZone:
		return fmt.Sprintf(text, "v1.17", corev1.LabelTopologyZone), true
	case corev1.LabelInstanceType:
		return fmt.Sprintf(text, "v1.17", corev1.LabelInstanceTypeStable), true
	}
	return "", false
}

func (w *warnings) nodeLabels() {
	for _, key := range sets.List(sets.KeySet(w.spec.NodeSelector)) {
		if text, ok := OldNodeLabel(key); ok {
			w.add(w.at("spec", "nodeSelector").Key(key), "%s", text)
		}
	}
	if a := w.spec.Affinity; a != nil && a.NodeAffinity != nil {
		p := w.at("spec", "affinity", "nodeAffinity")
		if r := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			for i := range r.NodeSelectorTerms {
				w.nodeTerm(&r.NodeSelectorTerms[i], false, p.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms").Index(i))
			}
		}
		for i := range a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			w.nodeTerm(&a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference, true,
				p.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("preference"))
		}
	}
	for i := range w.spec.TopologySpreadConstraints {
		c, p := &w.spec.TopologySpreadConstraints[i], w.at("spec", "topologySpreadConstraints").Index(i)
		if text, ok := OldNodeLabel(c.TopologyKey); ok {
			w.add(p.Child("topologyKey"), "%s is %s", c.TopologyKey, text)
		}
		w.selector(c.LabelSelector, p)
	}
}

// NodeSelectorWarnings tells of labels in a node selector that nodes no longer have.
func NodeSelectorWarnings(s *corev1.NodeSelector, p *field.Path) []string {
	w := &warnings{}
	for i := range s.NodeSelectorTerms {
		w.nodeTerm(&s.NodeSelectorTerms[i], false, p.Child("nodeSelectorTerms").Index(i))
	}
	return w.out
}

// nodeTerm tells of old labels, and where values aren't judged by validation, of those that no node can have.
func (w *warnings) nodeTerm(t *corev1.NodeSelectorTerm, values bool, p *field.Path) {
	for i := range t.MatchExpressions {
		r, at := &t.MatchExpressions[i], p.Child("matchExpressions").Index(i)
		if text, ok := OldNodeLabel(r.Key); ok {
			w.add(at.Child("key"), "%s is %s", r.Key, text)
		}
		if !values {
			continue
		}
		for j, v := range r.Values {
			for _, text := range check.IsValidLabelValue(v) {
				w.add(at.Child("values").Index(j), "%s is invalid, %s", v, text)
			}
		}
	}
}

func (w *warnings) selector(s *metav1.LabelSelector, p *field.Path) {
	if s == nil {
		w.add(p.Child("labelSelector"), "a null labelSelector results in matching no pod")
	}
}

func (w *warnings) affinity() {
	a := w.spec.Affinity
	if a == nil {
		return
	}
	terms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, p *field.Path) {
		for i := range required {
			w.selector(required[i].LabelSelector, p.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i))
		}
		for i := range preferred {
			w.selector(preferred[i].PodAffinityTerm.LabelSelector, p.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("podAffinityTerm"))
		}
	}
	if o := a.PodAffinity; o != nil {
		terms(o.RequiredDuringSchedulingIgnoredDuringExecution, o.PreferredDuringSchedulingIgnoredDuringExecution, w.at("spec", "affinity", "podAffinity"))
	}
	if o := a.PodAntiAffinity; o != nil {
		terms(o.RequiredDuringSchedulingIgnoredDuringExecution, o.PreferredDuringSchedulingIgnoredDuringExecution, w.at("spec", "affinity", "podAntiAffinity"))
	}
}

// Annotations that once were the only way to ask for what fields do now.
const (
	podSeccomp       = "seccomp.security.alpha.kubernetes.io/pod"
	containerSeccomp = "container.seccomp.security.alpha.kubernetes.io/"
	seccompText      = `non-functional in v1.27+; use the "seccompProfile" field instead`
)

func (w *warnings) annotations() {
	for _, a := range [][2]string{
		{"scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`},
		{"security.alpha.kubernetes.io/sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
		{"security.alpha.kubernetes.io/unsafe-sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
	} {
		if _, ok := w.meta.Annotations[a[0]]; ok {
			w.add(w.at("metadata", "annotations").Key(a[0]), "%s", a[1])
		}
	}
}

// appArmor tells of the annotation that named a container's profile, if no field does.
func (w *warnings) appArmor(c located) {
	if s := w.spec.SecurityContext; s != nil && s.AppArmorProfile != nil {
		return
	}
	// In a pod the field already has what the annotation says.
	if s := c.SecurityContext; s != nil && s.AppArmorProfile != nil &&
		(w.template || !equality.Semantic.DeepEqual(s.AppArmorProfile, annotatedProfile(w.meta.Annotations, c.Name))) {
		return
	}
	key := corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + c.Name
	if _, ok := w.meta.Annotations[key]; ok {
		w.add(w.at("metadata", "annotations").Key(key), `deprecated since v1.30; use the "appArmorProfile" field instead`)
	}
}

func (w *warnings) volumes() {
	for i := range w.spec.Volumes {
		v, p := &w.spec.Volumes[i], w.at("spec", "volumes").Index(i)
		for _, f := range []struct {
			set        bool
			name, text string
		}{
			{v.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
			{v.GitRepo != nil, "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"},
			{v.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
			{v.Flocker != nil, "flocker", "deprecated in v1.22, non-functional in v1.25+"},
			{v.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
			{v.Quobyte != nil, "quobyte", "deprecated in v1.22, non-functional in v1.25+"},
			{v.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
			{v.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+"},
			{v.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+"},
		} {
			if f.set {
				w.add(p.Child(f.name), "%s", f.text)
			}
		}
		if e := v.Ephemeral; e != nil && e.VolumeClaimTemplate != nil {
			w.out = append(w.out, ClaimWarnings(&e.VolumeClaimTemplate.Spec, p.Child("ephemeral", "volumeClaimTemplate", "spec"))...)
		}
	}
}

// ClaimWarnings tells of sizes of claims that are no whole number of bytes.
func ClaimWarnings(s *corev1.PersistentVolumeClaimSpec, p *field.Path) []string {
	w := &warnings{}
	w.fraction(s.Resources.Requests, corev1.ResourceStorage, func() *field.Path { return p.Child("resources", "requests") })
	w.fraction(s.Resources.Limits, corev1.ResourceStorage, func() *field.Path { return p.Child("resources", "limits") })
	return w.out
}

// overlaps tells of files of one volume that lie at the same path, or below another file.
func (w *warnings) overlaps() {
	for i := range w.spec.Volumes {
		v := &w.spec.Volumes[i]
		if c := v.ConfigMap; c != nil {
			w.overlap(v.Name, fmt.Sprintf("ConfigMap %q", c.Name), nil, keyPaths(c.Items))
		}
		if s := v.Secret; s != nil {
			w.overlap(v.Name, fmt.Sprintf("Secret %q", s.SecretName), nil, keyPaths(s.Items))
		}
		if d := v.DownwardAPI; d != nil {
			w.overlap(v.Name, "DownwardAPI", nil, downwardPaths(d.Items))
		}
		if v.Projected != nil {
			w.projected(v.Name, v.Projected)
		}
	}
}

func (w *warnings) projected(volume string, v *corev1.ProjectedVolumeSource) {
	var before []string
	for i := range v.Sources {
		s := &v.Sources[i]
		var paths []string
		var what string
		switch {
		case *s == (corev1.VolumeProjection{}):
			w.out = append(w.out, fmt.Sprintf("volume %q (Projected) has no sources provided", volume))
			continue
		case s.ConfigMap != nil:
			what, paths = fmt.Sprintf("Projected ConfigMap %q", s.ConfigMap.Name), keyPaths(s.ConfigMap.Items)
		case s.Secret != nil:
			what, paths = fmt.Sprintf("Projected Secret %q", s.Secret.Name), keyPaths(s.Secret.Items)
		case s.DownwardAPI != nil:
			what, paths = "Projected DownwardAPI", downwardPaths(s.DownwardAPI.Items)
		case s.ServiceAccountToken != nil:
			what, paths = "Projected ServiceAccountToken", []string{s.ServiceAccountToken.Path}
		case s.ClusterTrustBundle != nil:
			what, paths = "Projected ClusterTrustBundle", []string{s.ClusterTrustBundle.Path}
		case s.PodCertificate != nil:
			what = "Projected PodCertificate"
			for _, f := range []string{s.PodCertificate.CredentialBundlePath, s.PodCertificate.KeyPath, s.PodCertificate.CertificateChainPath} {
				if f != "" {
					paths = append(paths, f)
				}
			}
		}
		w.overlap(volume, what, before, paths)
		before = append(before, paths...)
	}
}

// overlap tells of paths that collide with each other or with those before.
func (w *warnings) overlap(volume, what string, before, paths []string) {
	seen := append([]string(nil), before...)
	for _, p := range paths {
		for _, o := range seen {
			a, b := strings.TrimRight(p, "/"), strings.TrimRight(o, "/")
			if a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/") {
				w.out = append(w.out, fmt.Sprintf("volume %q (%s): overlapping paths: %q with %q", volume, what, p, o))
			}
		}
		seen = append(seen, p)
	}
}

func keyPaths(items []corev1.KeyToPath) []string {
	out := make([]string, len(items))
	for i := range items {
		out[i] = items[i].Path
	}
	return out
}

func downwardPaths(items []corev1.DownwardAPIVolumeFile) []string {
	out := make([]string, len(items))
	for i := range items {
		out[i] = items[i].Path
	}
	return out
}

func (w *warnings) duplicates() {
	seen := sets.New[string]()
	for i := range w.spec.HostAliases {
		if ip := w.spec.HostAliases[i].IP; seen.Has(ip) {
			w.add(w.at("spec", "hostAliases").Index(i).Child("ip"), "duplicate ip %q", ip)
		} else {
			seen.Insert(ip)
		}
	}
	seen = sets.New[string]()
	if len(w.spec.ImagePullSecrets) == 0 {
		return
	}
	names := w.at("spec", "imagePullSecrets")
	for i := range w.spec.ImagePullSecrets {
		if name := w.spec.ImagePullSecrets[i].Name; seen.Has(name) {
			w.add(names.Index(i).Child("name"), "duplicate name %q", name)
		} else {
			seen.Insert(name)
		}
	}
	for i := range w.spec.ImagePullSecrets {
		if w.spec.ImagePullSecrets[i].Name == "" {
			w.add(names.Index(i).Child("name"), "invalid empty name %q", "")
		}
	}
}

// wholeBytes are the resources of which there are no parts of a byte.
var wholeBytes = [...]corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage}

// fraction tells of an amount of bytes that isn't whole.
func (w *warnings) fraction(list corev1.ResourceList, name corev1.ResourceName, p func() *field.Path) {
	if q, ok := list[name]; ok && q.MilliValue()%1000 != 0 {
		w.add(p().Key(string(name)), "fractional byte value %q is invalid, must be an integer", q.String())
	}
}

func (w *warnings) containers() {
	annotation := func(key string) *field.Path { return w.at("metadata", "annotations").Key(key) }
	if s := w.spec.SecurityContext; s == nil || s.SeccompProfile == nil {
		if _, ok := w.meta.Annotations[podSeccomp]; ok {
			w.add(annotation(podSeccomp), "%s", seccompText)
		}
	}
	for _, c := range containersOf(w.spec) {
		if s := c.SecurityContext; s == nil || s.SeccompProfile == nil {
			if key := containerSeccomp + c.Name; hasKey(w.meta.Annotations, key) {
				w.add(annotation(key), "%s", seccompText)
			}
		}
		if w.template {
			w.appArmor(c)
		}
		for _, name := range wholeBytes {
			w.fraction(c.Resources.Limits, name, func() *field.Path { return w.container(c).Child("resources", "limits") })
			w.fraction(c.Resources.Requests, name, func() *field.Path { return w.container(c).Child("resources", "requests") })
		}
		w.env(c)
	}
}

func hasKey(m map[string]string, key string) bool {
	_, ok := m[key]
	return ok
}

// env tells of variables that are set twice without the second building on the first.
func (w *warnings) env(c located) {
	seen := sets.New[string]()
	for i := range c.Env {
		e := &c.Env[i]
		ref := "$(" + e.Name + ")"
		if seen.Has(e.Name) && (e.ValueFrom != nil || e.Value == ref || !strings.Contains(e.Value, ref)) {
			w.add(w.container(c).Child("env").Index(i), "hides previous definition of %q, which may be dropped when using apply", e.Name)
		}
		seen.Insert(e.Name)
	}
}

// ports tells of ports that are there twice, or may get into each other's way.
func (w *warnings) ports() {
	type key struct {
		port     int32
		protocol corev1.Protocol
	}
	type place struct {
		corev1.ContainerPort
		path *field.Path
	}
	all := map[key][]place{}
	for _, c := range containersOf(w.spec) {
		for i, port := range c.Ports {
			at, k := w.container(c).Child("ports").Index(i), key{port.ContainerPort, port.Protocol}
			if port.HostIP != "" && port.HostPort == 0 {
				w.add(at, "hostIP set without hostPort: {Name:%s HostPort:%d ContainerPort:%d Protocol:%s HostIP:%s}",
					port.Name, port.HostPort, port.ContainerPort, port.Protocol, port.HostIP)
			}
			for _, o := range all[k] {
				switch {
				case port.HostIP == o.HostIP && port.HostPort == o.HostPort:
					w.add(at, "duplicate port definition with %s", o.path)
				case port.HostPort == 0 || o.HostPort == 0:
					w.add(at, "overlapping port definition with %s", o.path)
				case port.HostPort == o.HostPort && (port.HostIP == "") != (o.HostIP == ""):
					w.add(at, "dangerously ambiguous port definition with %s", o.path)
				}
			}
			all[k] = append(all[k], place{port, at})
		}
	}
}
