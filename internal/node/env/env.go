package env

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/celox/celox/internal/node/downward"
)

// Sources gives the objects that variables are taken from. Errors are the API's own.
type Sources interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// Files gives the content of a file in one of the pod's volumes (KEP-3721).
type Files func(volume, path string) ([]byte, error)

// Input is what a container's environment is made of.
type Input struct {
	Pod       *corev1.Pod
	Container *corev1.Container
	Node      downward.Node
	Services  map[string]string
	Sources   Sources
	Files     Files
}

// Var is one variable.
type Var struct{ Name, Value string }

// Make makes the environment. Later variables override earlier ones of the same name: services, envFrom, env. The error
// is for people: it becomes the message of CreateContainerConfigError.
func Make(ctx context.Context, in Input) ([]Var, error) {
	values := map[string]string{}
	var order []string
	set := func(name, value string) {
		if _, ok := values[name]; !ok {
			order = append(order, name)
		}
		values[name] = value
	}
	if err := in.from(ctx, set); err != nil {
		return nil, err
	}
	lookup := Lookup(values, in.Services)
	for i := range in.Container.Env {
		e := &in.Container.Env[i]
		if e.ValueFrom == nil {
			set(e.Name, Expand(e.Value, lookup))
			continue
		}
		value, present, err := in.value(ctx, e.ValueFrom)
		if err != nil {
			return nil, err
		}
		if present {
			set(e.Name, value)
		}
	}
	out := make([]Var, 0, len(order)+len(in.Services))
	for _, name := range order {
		out = append(out, Var{name, values[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(in.Services)) {
		if _, ok := values[name]; !ok {
			out = append(out, Var{name, in.Services[name]})
		}
	}
	return out, nil
}

func (in *Input) from(ctx context.Context, set func(name, value string)) error {
	ns := in.Pod.Namespace
	for i := range in.Container.EnvFrom {
		f := &in.Container.EnvFrom[i]
		switch {
		case f.ConfigMapRef != nil:
			cm, err := in.Sources.ConfigMap(ctx, ns, f.ConfigMapRef.Name)
			if skip, err := optional(err, f.ConfigMapRef.Optional); skip || err != nil {
				if err != nil {
					return err
				}
				continue
			}
			for _, k := range slices.Sorted(maps.Keys(cm.Data)) {
				if valid(f.Prefix + k) {
					set(f.Prefix+k, cm.Data[k])
				}
			}
		case f.SecretRef != nil:
			s, err := in.Sources.Secret(ctx, ns, f.SecretRef.Name)
			if skip, err := optional(err, f.SecretRef.Optional); skip || err != nil {
				if err != nil {
					return err
				}
				continue
			}
			for _, k := range slices.Sorted(maps.Keys(s.Data)) {
				if valid(f.Prefix + k) {
					set(f.Prefix+k, string(s.Data[k]))
				}
			}
		}
	}
	return nil
}

// valid refuses the names that a process environment cannot hold.
func valid(name string) bool { return name != "" && !strings.ContainsAny(name, "=\x00") }

func optional(err error, isOptional *bool) (skip bool, _ error) {
	if err == nil {
		return false, nil
	}
	if isOptional != nil && *isOptional && apierrors.IsNotFound(err) {
		return true, nil
	}
	return false, notFoundText(err)
}

// notFoundText shortens the API's NotFound ("configmaps \"x\" not found") to the kubelet's wording.
func notFoundText(err error) error {
	if !apierrors.IsNotFound(err) {
		return err
	}
	text := err.Error()
	text = strings.Replace(text, "configmaps ", "configmap ", 1)
	text = strings.Replace(text, "secrets ", "secret ", 1)
	return fmt.Errorf("%s", text)
}

func (in *Input) value(ctx context.Context, from *corev1.EnvVarSource) (value string, present bool, _ error) {
	ns := in.Pod.Namespace
	switch {
	case from.FieldRef != nil:
		v, err := downward.Field(in.Pod, in.Node, from.FieldRef.FieldPath)
		return v, true, err
	case from.ResourceFieldRef != nil:
		v, err := downward.Resource(in.Pod, in.Container, in.Node, from.ResourceFieldRef)
		return v, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		cm, err := in.Sources.ConfigMap(ctx, ns, ref.Name)
		if skip, err := optional(err, ref.Optional); skip || err != nil {
			return "", false, err
		}
		if v, ok := cm.Data[ref.Key]; ok {
			return v, true, nil
		}
		if ref.Optional != nil && *ref.Optional {
			return "", false, nil
		}
		return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, ns, ref.Name)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		s, err := in.Sources.Secret(ctx, ns, ref.Name)
		if skip, err := optional(err, ref.Optional); skip || err != nil {
			return "", false, err
		}
		if v, ok := s.Data[ref.Key]; ok {
			return string(v), true, nil
		}
		if ref.Optional != nil && *ref.Optional {
			return "", false, nil
		}
		return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, ns, ref.Name)
	case from.FileKeyRef != nil:
		return in.fileKey(from.FileKeyRef)
	}
	return "", false, nil
}

func (in *Input) fileKey(ref *corev1.FileKeySelector) (string, bool, error) {
	may := ref.Optional != nil && *ref.Optional
	if in.Files == nil {
		return "", false, fmt.Errorf("environment file %q cannot be read", ref.Path)
	}
	data, err := in.Files(ref.VolumeName, ref.Path)
	if err != nil {
		if may {
			return "", false, nil
		}
		return "", false, fmt.Errorf("couldn't parse env file: %w", err)
	}
	pairs, err := ParseFile(data)
	if err != nil {
		return "", false, fmt.Errorf("couldn't parse env file: %w", err)
	}
	if v, ok := pairs[ref.Key]; ok {
		return v, true, nil
	}
	if may {
		return "", false, nil
	}
	return "", false, fmt.Errorf("environment variable key %q not found in file %q", ref.Key, ref.Path)
}
