package check

import (
	"bytes"
	"encoding/json"
	"reflect"
	"sort"

	corev1 "k8s.io/api/core/v1"
)

// Rendered makes v print in messages as upstream's server prints its unversioned types: Go field names, nothing omitted, nil
// as null. Complaints show values that way, and the differences in the complaints about immutable specs are lines of it.
// v is a pointer or value of an API type; it is read when the message is made, so it must not change until then.
func Rendered(v any) json.Marshaler { return rendered{reflect.ValueOf(v)} }

type rendered struct{ v reflect.Value }

// MarshalJSON writes the value.
func (r rendered) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	if err := render(&b, r.v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// fieldOrders lists the fields of those types whose unversioned form has another order than the versioned one.
func fieldOrder(t reflect.Type) []string {
	switch t {
	case reflect.TypeFor[corev1.PodSpec]():
		return []string{"Volumes", "InitContainers", "Containers", "EphemeralContainers", "RestartPolicy", "TerminationGracePeriodSeconds",
			"ActiveDeadlineSeconds", "DNSPolicy", "NodeSelector", "ServiceAccountName", "AutomountServiceAccountToken", "NodeName", "SecurityContext",
			"ImagePullSecrets", "Hostname", "Subdomain", "SetHostnameAsFQDN", "Affinity", "SchedulerName", "Tolerations", "HostAliases",
			"PriorityClassName", "Priority", "PreemptionPolicy", "DNSConfig", "ReadinessGates", "RuntimeClassName", "Overhead", "EnableServiceLinks",
			"TopologySpreadConstraints", "OS", "SchedulingGates", "ResourceClaims", "Resources", "HostnameOverride", "SchedulingGroup"}
	case reflect.TypeFor[corev1.PodSecurityContext]():
		return []string{"SELinuxOptions", "WindowsOptions", "RunAsUser", "RunAsGroup", "RunAsNonRoot", "SupplementalGroups",
			"SupplementalGroupsPolicy", "FSGroup", "FSGroupChangePolicy", "Sysctls", "SeccompProfile", "AppArmorProfile", "SELinuxChangePolicy"}
	case reflect.TypeFor[corev1.VolumeSource]():
		return []string{"HostPath", "EmptyDir", "GCEPersistentDisk", "AWSElasticBlockStore", "GitRepo", "Secret", "NFS", "ISCSI", "Glusterfs",
			"PersistentVolumeClaim", "RBD", "Quobyte", "FlexVolume", "Cinder", "CephFS", "Flocker", "DownwardAPI", "FC", "AzureFile", "ConfigMap",
			"VsphereVolume", "AzureDisk", "PhotonPersistentDisk", "Projected", "PortworxVolume", "ScaleIO", "StorageOS", "CSI", "Ephemeral", "Image"}
	case reflect.TypeFor[corev1.PersistentVolumeSource]():
		return []string{"GCEPersistentDisk", "AWSElasticBlockStore", "HostPath", "Glusterfs", "NFS", "RBD", "Quobyte", "ISCSI", "FlexVolume", "Cinder",
			"CephFS", "FC", "Flocker", "AzureFile", "VsphereVolume", "AzureDisk", "PhotonPersistentDisk", "PortworxVolume", "ScaleIO", "Local",
			"StorageOS", "CSI"}
	}
	return nil
}

// hostFields are fields of the pod spec that the unversioned form keeps at the head of its security context.
var hostFields = [...]string{"HostNetwork", "HostPID", "HostIPC", "ShareProcessNamespace", "HostUsers"}

var marshalerType = reflect.TypeFor[json.Marshaler]()

func render(b *bytes.Buffer, v reflect.Value) error {
	if !v.IsValid() {
		b.WriteString("null")
		return nil
	}
	t := v.Type()
	switch {
	case t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface:
		if v.IsNil() {
			b.WriteString("null")
			return nil
		}
		return render(b, v.Elem())
	case t.Implements(marshalerType), t.Kind() == reflect.Struct && t.PkgPath() == "k8s.io/apimachinery/pkg/apis/meta/v1":
		return renderPlain(b, v)
	}
	switch t.Kind() {
	case reflect.Struct:
		b.WriteByte('{')
		w := members{b: b}
		if err := w.structure(v); err != nil {
			return err
		}
		b.WriteByte('}')
		return nil
	case reflect.Map:
		return renderMap(b, v)
	case reflect.Slice:
		if v.IsNil() {
			b.WriteString("null")
			return nil
		}
		if t.Elem().Kind() == reflect.Uint8 {
			return renderPlain(b, v)
		}
		b.WriteByte('[')
		for i := range v.Len() {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := render(b, v.Index(i)); err != nil {
				return err
			}
		}
		b.WriteByte(']')
		return nil
	}
	return renderPlain(b, v)
}

func renderPlain(b *bytes.Buffer, v reflect.Value) error {
	data, err := json.Marshal(v.Interface())
	b.Write(data)
	return err
}

func renderMap(b *bytes.Buffer, v reflect.Value) error {
	if v.IsNil() {
		b.WriteString("null")
		return nil
	}
	keys := v.MapKeys()
	sort.Slice(keys, func(i, j int) bool { return keys[i].String() < keys[j].String() })
	b.WriteByte('{')
	w := members{b: b}
	for _, k := range keys {
		if err := w.member(k.String(), v.MapIndex(k)); err != nil {
			return err
		}
	}
	b.WriteByte('}')
	return nil
}

// members writes "name": value pairs with commas between them.
type members struct {
	b    *bytes.Buffer
	some bool
}

func (w *members) name(name string) error {
	if w.some {
		w.b.WriteByte(',')
	}
	w.some = true
	data, err := json.Marshal(name)
	w.b.Write(data)
	w.b.WriteByte(':')
	return err
}

func (w *members) member(name string, v reflect.Value) error {
	if err := w.name(name); err != nil {
		return err
	}
	return render(w.b, v)
}

func (w *members) structure(v reflect.Value) error {
	t := v.Type()
	if order := fieldOrder(t); order != nil {
		for _, name := range order {
			if name == "SecurityContext" && t == reflect.TypeFor[corev1.PodSpec]() {
				if err := w.podSecurityContext(v); err != nil {
					return err
				}
				continue
			}
			if err := w.member(name, v.FieldByName(name)); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			if err := w.structure(v.Field(i)); err != nil {
				return err
			}
			continue
		}
		if err := w.member(f.Name, v.Field(i)); err != nil {
			return err
		}
	}
	return nil
}

func (w *members) podSecurityContext(spec reflect.Value) error {
	sc := spec.FieldByName("SecurityContext")
	if err := w.name("SecurityContext"); err != nil {
		return err
	}
	w.b.WriteByte('{')
	inner := members{b: w.b}
	for _, name := range hostFields {
		if err := inner.member(name, spec.FieldByName(name)); err != nil {
			return err
		}
	}
	if sc.IsNil() {
		sc = reflect.ValueOf(&corev1.PodSecurityContext{})
	}
	if err := inner.structure(sc.Elem()); err != nil {
		return err
	}
	w.b.WriteByte('}')
	return nil
}
