package objects

import corev1 "k8s.io/api/core/v1"

// UsesTrustBundles says whether a volume of the pod projects ClusterTrustBundles.
func UsesTrustBundles(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if v := pod.Spec.Volumes[i].Projected; v != nil {
			for j := range v.Sources {
				if v.Sources[j].ClusterTrustBundle != nil {
					return true
				}
			}
		}
	}
	return false
}

// Refs lists the config maps and secrets that a pod names, without duplicates.
func Refs(pod *corev1.Pod) []Ref {
	seen := map[Ref]bool{}
	var out []Ref
	add := func(k Kind, name string) {
		r := Ref{k, pod.Namespace, name}
		if name != "" && !seen[r] {
			seen[r] = true
			out = append(out, r)
		}
	}
	for i := range pod.Spec.ImagePullSecrets {
		add(Secret, pod.Spec.ImagePullSecrets[i].Name)
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.ConfigMap != nil {
			add(ConfigMap, v.ConfigMap.Name)
		}
		if v.Secret != nil {
			add(Secret, v.Secret.SecretName)
		}
		if v.Projected != nil {
			for j := range v.Projected.Sources {
				if s := v.Projected.Sources[j].Secret; s != nil {
					add(Secret, s.Name)
				}
				if c := v.Projected.Sources[j].ConfigMap; c != nil {
					add(ConfigMap, c.Name)
				}
			}
		}
	}
	container := func(c *corev1.Container) {
		for j := range c.EnvFrom {
			if r := c.EnvFrom[j].ConfigMapRef; r != nil {
				add(ConfigMap, r.Name)
			}
			if r := c.EnvFrom[j].SecretRef; r != nil {
				add(Secret, r.Name)
			}
		}
		for j := range c.Env {
			if from := c.Env[j].ValueFrom; from != nil {
				if from.ConfigMapKeyRef != nil {
					add(ConfigMap, from.ConfigMapKeyRef.Name)
				}
				if from.SecretKeyRef != nil {
					add(Secret, from.SecretKeyRef.Name)
				}
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		container(&pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		container(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.EphemeralContainers {
		c := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		container(&c)
	}
	return out
}
