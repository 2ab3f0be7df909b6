package admission

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
)

// ServiceAccounts finds service accounts.
type ServiceAccounts interface {
	ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
}

// ServiceAccount gives pods a service account, its image pull secrets and a volume with its token.
type ServiceAccount struct{ objects ServiceAccounts }

// NewServiceAccount returns the plugin.
func NewServiceAccount(objects ServiceAccounts) *ServiceAccount {
	return &ServiceAccount{objects: objects}
}

const (
	defaultServiceAccount = "default"
	tokenMountPath        = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenVolumePrefix     = "kube-api-access-"
	// tokenSeconds is one hour and a mark by which the token issuer knows that programs which never read their token
	// again may use it (KEP-1205).
	tokenSeconds = 60*60 + 7
	// enforceMountable on a service account lets its pods use only the secrets that it lists.
	enforceMountable = "kubernetes.io/enforce-mountable-secrets"
	// newNamespaceWait is how long the first pods of a namespace wait for its default account, which a controller makes.
	newNamespaceWait = time.Second
)

// Admit completes a new pod.
func (p *ServiceAccount) Admit(ctx context.Context, a *Attributes) error {
	pod, ok := a.Object.(*corev1.Pod)
	if !ok || a.Operation != Create || !a.is("", "pods", "") {
		return nil
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return p.Validate(ctx, a)
	}
	if pod.Spec.ServiceAccountName == "" {
		if pod.Spec.ServiceAccountName = pod.Spec.DeprecatedServiceAccount; pod.Spec.ServiceAccountName == "" {
			pod.Spec.ServiceAccountName = defaultServiceAccount
		}
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	account, err := p.account(ctx, a, pod.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	if automount(account, pod) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
	}
	return p.Validate(ctx, a)
}

func (p *ServiceAccount) account(ctx context.Context, a *Attributes, name string) (*corev1.ServiceAccount, error) {
	deadline := time.Now().Add(newNamespaceWait)
	for pause := 5 * time.Millisecond; ; pause *= 2 {
		account, err := p.objects.ServiceAccount(ctx, a.Namespace, name)
		if err == nil {
			return account, nil
		}
		if !apierrors.IsNotFound(err) {
			return nil, err
		}
		if name != defaultServiceAccount || time.Now().Add(pause).After(deadline) {
			missing := apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccount"}, name)
			return nil, forbid(a, fmt.Errorf("error looking up service account %s/%s: %v", a.Namespace, name, missing))
		}
		t := time.NewTimer(pause + rand.N(pause))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		case <-t.C:
		}
	}
}

// automount tells whether a pod gets a token; its own word counts more than its account's.
func automount(account *corev1.ServiceAccount, pod *corev1.Pod) bool {
	switch {
	case pod.Spec.AutomountServiceAccountToken != nil:
		return *pod.Spec.AutomountServiceAccountToken
	case account.AutomountServiceAccountToken != nil:
		return *account.AutomountServiceAccountToken
	}
	return true
}

// mountToken mounts the token into every container that has nothing at its place.
func mountToken(pod *corev1.Pod) {
	volume, there := "", false
	for i := range pod.Spec.Volumes {
		if strings.HasPrefix(pod.Spec.Volumes[i].Name, tokenVolumePrefix) {
			volume, there = pod.Spec.Volumes[i].Name, true
			break
		}
	}
	if !there {
		volume = tokenVolumePrefix + utilrand.String(5)
	}
	mounted := false
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			c := &containers[i]
			if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenMountPath }) {
				continue
			}
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: volume, ReadOnly: true, MountPath: tokenMountPath})
			mounted = true
		}
	}
	if mounted && !there {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{Projected: tokenVolume()}})
	}
}

func tokenVolume() *corev1.ProjectedVolumeSource {
	return &corev1.ProjectedVolumeSource{
		DefaultMode: new(corev1.ProjectedVolumeSourceDefaultMode),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: new(int64(tokenSeconds))}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}}}}},
		},
	}
}

// Validate checks mirror pods, and the secrets of accounts that limit them.
func (p *ServiceAccount) Validate(ctx context.Context, a *Attributes) error {
	pod, ok := a.Object.(*corev1.Pod)
	if !ok || !(a.Operation == Create && a.is("", "pods", "") || a.Operation == Update && a.is("", "pods", "ephemeralcontainers")) {
		return nil
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return checkMirror(a, pod)
	}
	account, err := p.account(ctx, a, pod.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	if account.Annotations[enforceMountable] == "true" {
		if err := checkMountable(account, pod); err != nil {
			return forbid(a, err)
		}
	}
	return nil
}

func checkMirror(a *Attributes, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return forbidText(a, "a mirror pod may not reference service accounts")
	}
	if len(secretsOf(pod)) > 0 || len(pod.Spec.ImagePullSecrets) > 0 {
		return forbidText(a, "a mirror pod may not reference secrets")
	}
	for i := range pod.Spec.Volumes {
		if v := pod.Spec.Volumes[i].Projected; v != nil && slices.ContainsFunc(v.Sources, func(s corev1.VolumeProjection) bool { return s.ServiceAccountToken != nil }) {
			return forbidText(a, "a mirror pod may not use ServiceAccountToken volume projections")
		}
	}
	return nil
}

// secretUse is one use of a secret, in words.
type secretUse struct{ secret, where string }

// secretsOf lists where volumes and containers use secrets.
func secretsOf(pod *corev1.Pod) []secretUse {
	var out []secretUse
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Secret != nil {
			out = append(out, secretUse{v.Secret.SecretName, fmt.Sprintf("volume with secret.secretName=%q", v.Secret.SecretName)})
		}
		if v.Projected != nil {
			for _, s := range v.Projected.Sources {
				if s.Secret != nil {
					out = append(out, secretUse{s.Secret.Name, fmt.Sprintf("volume with secret.secretName=%q", s.Secret.Name)})
				}
			}
		}
	}
	add := func(what, name string, env []corev1.EnvVar, from []corev1.EnvFromSource) {
		for i := range env {
			if v := env[i].ValueFrom; v != nil && v.SecretKeyRef != nil {
				out = append(out, secretUse{v.SecretKeyRef.Name,
					fmt.Sprintf("%s %s with envVar %s referencing secret.secretName=%q", what, name, env[i].Name, v.SecretKeyRef.Name)})
			}
		}
		for i := range from {
			if ref := from[i].SecretRef; ref != nil {
				out = append(out, secretUse{ref.Name, fmt.Sprintf("%s %s with envFrom referencing secret.secretName=%q", what, name, ref.Name)})
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		add("init container", c.Name, c.Env, c.EnvFrom)
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		add("container", c.Name, c.Env, c.EnvFrom)
	}
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		add("ephemeral container", c.Name, c.Env, c.EnvFrom)
	}
	return out
}

func checkMountable(account *corev1.ServiceAccount, pod *corev1.Pod) error {
	for _, use := range secretsOf(pod) {
		if !slices.ContainsFunc(account.Secrets, func(r corev1.ObjectReference) bool { return r.Name == use.secret }) {
			return fmt.Errorf("%s is not allowed because service account %s does not reference that secret", use.where, account.Name)
		}
	}
	for i, ref := range pod.Spec.ImagePullSecrets {
		if !slices.Contains(account.ImagePullSecrets, ref) {
			return fmt.Errorf("imagePullSecrets[%d].name=%q is not allowed because service account %s does not reference that imagePullSecret", i, ref.Name, account.Name)
		}
	}
	return nil
}
