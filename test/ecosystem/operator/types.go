package main

import (
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/conversion"
)

// The group and its versions: v1 is stored, v1alpha1 is what older manifests say.
var (
	v1      = schema.GroupVersion{Group: "harbor.celox.test", Version: "v1"}
	v1alpha = schema.GroupVersion{Group: "harbor.celox.test", Version: "v1alpha1"}
)

// Fleet is the custom resource: so many ships of a class, each a replica of a Deployment.
type Fleet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              FleetSpec   `json:"spec"`
	Status            FleetStatus `json:"status,omitempty"`
}

// FleetSpec is what is asked for.
type FleetSpec struct {
	Ships  int32             `json:"ships"`
	Class  string            `json:"class,omitempty"`
	Harbor string            `json:"harbor,omitempty"`
	Flags  map[string]string `json:"flags,omitempty"`
}

// FleetStatus is what there is.
type FleetStatus struct {
	Afloat     int32              `json:"afloat"`
	Selector   string             `json:"selector,omitempty"`
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// FleetList is a list of them.
type FleetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Fleet `json:"items"`
}

// AlphaFleet is a Fleet as v1alpha1 had it: the class was a kind, and the number a count.
type AlphaFleet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              AlphaFleetSpec `json:"spec"`
	Status            FleetStatus    `json:"status,omitempty"`
}

// AlphaFleetSpec is the spec of v1alpha1.
type AlphaFleetSpec struct {
	Count  int32             `json:"count"`
	Kind   string            `json:"kind,omitempty"`
	Harbor string            `json:"harbor,omitempty"`
	Flags  map[string]string `json:"flags,omitempty"`
}

// Hub marks v1 as the version that all others are converted through.
func (*Fleet) Hub() {}

// ConvertTo makes a v1 Fleet of a v1alpha1 one.
func (a *AlphaFleet) ConvertTo(hub conversion.Hub) error {
	f := hub.(*Fleet)
	f.ObjectMeta = *a.ObjectMeta.DeepCopy()
	f.Spec = FleetSpec{Ships: a.Spec.Count, Class: a.Spec.Kind, Harbor: a.Spec.Harbor, Flags: a.Spec.Flags}
	f.Status = *a.Status.copy()
	return nil
}

// ConvertFrom makes a v1alpha1 Fleet of a v1 one.
func (a *AlphaFleet) ConvertFrom(hub conversion.Hub) error {
	f := hub.(*Fleet)
	a.ObjectMeta = *f.ObjectMeta.DeepCopy()
	a.Spec = AlphaFleetSpec{Count: f.Spec.Ships, Kind: f.Spec.Class, Harbor: f.Spec.Harbor, Flags: f.Spec.Flags}
	a.Status = *f.Status.copy()
	return nil
}

func (s *FleetStatus) copy() *FleetStatus {
	out := *s
	out.Conditions = nil
	for i := range s.Conditions {
		out.Conditions = append(out.Conditions, *s.Conditions[i].DeepCopy())
	}
	return &out
}

// DeepCopyObject is what the scheme asks of every type.
func (f *Fleet) DeepCopyObject() runtime.Object {
	out := &Fleet{TypeMeta: f.TypeMeta, ObjectMeta: *f.ObjectMeta.DeepCopy(), Spec: f.Spec, Status: *f.Status.copy()}
	out.Spec.Flags = maps.Clone(f.Spec.Flags)
	return out
}

// DeepCopyObject is what the scheme asks of every type.
func (a *AlphaFleet) DeepCopyObject() runtime.Object {
	out := &AlphaFleet{TypeMeta: a.TypeMeta, ObjectMeta: *a.ObjectMeta.DeepCopy(), Spec: a.Spec, Status: *a.Status.copy()}
	out.Spec.Flags = maps.Clone(a.Spec.Flags)
	return out
}

// DeepCopyObject is what the scheme asks of every type.
func (l *FleetList) DeepCopyObject() runtime.Object {
	out := &FleetList{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for i := range l.Items {
		out.Items = append(out.Items, *l.Items[i].DeepCopyObject().(*Fleet))
	}
	return out
}

func register(s *runtime.Scheme) {
	s.AddKnownTypes(v1, &Fleet{}, &FleetList{})
	s.AddKnownTypeWithName(v1alpha.WithKind("Fleet"), &AlphaFleet{})
	metav1.AddToGroupVersion(s, v1)
	metav1.AddToGroupVersion(s, v1alpha)
}
