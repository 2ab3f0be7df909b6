package legacytoken

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

const (
	// lastUsed and invalidSince are the labels of secrets with days: when the token was last used, and when it was found not to be.
	lastUsed     = "kubernetes.io/legacy-token-last-used"
	invalidSince = "kubernetes.io/legacy-token-invalid-since"
	// unused is how long a token may go unused, and how long it is invalid before it goes: upstream's default.
	unused = 365 * 24 * time.Hour
	// interval is between two looks.
	interval = 24 * time.Hour
	// unknownPause is how long it waits when nobody has said yet since when the use of tokens is noted.
	unknownPause = time.Minute
)

// Cleaner ends tokens that nobody uses. It has one key.
type Cleaner struct {
	client   kubernetes.Interface
	secrets  corelisters.SecretLister
	accounts corelisters.ServiceAccountLister
	pods     corelisters.PodLister
	clock    clock.PassiveClock
	log      *slog.Logger
	loop     *controller.Loop
}

// NewCleaner makes the controller; the caller starts the informers.
func NewCleaner(c kubernetes.Interface, f *informers.Factory, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Cleaner, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	secrets, accounts, pods := f.Core().V1().Secrets(), f.Core().V1().ServiceAccounts(), f.Core().V1().Pods()
	ctl := &Cleaner{client: c, secrets: secrets.Lister(), accounts: accounts.Lister(), pods: pods.Lister(), clock: clk, log: log}
	ctl.loop = controller.NewLoop("legacy-service-account-token-cleaner", ctl.Reconcile, controller.Options{
		Workers: 1, Synced: []cache.InformerSynced{secrets.Informer().HasSynced, accounts.Informer().HasSynced, pods.Informer().HasSynced}, Log: log, Metrics: m,
	})
	return ctl, nil
}

// Run looks at all tokens now and once a day until ctx ends.
func (c *Cleaner) Run(ctx context.Context) error {
	c.loop.Add("all")
	return c.loop.Run(ctx)
}

// Reconcile looks at all tokens, if their use has been noted for long enough.
func (c *Cleaner) Reconcile(ctx context.Context, key string) error {
	now := c.clock.Now().UTC()
	tracked, err := c.trackedSince(ctx)
	if apierrors.IsNotFound(err) {
		c.loop.AddAfter(key, unknownPause)
		return nil
	} else if err != nil {
		return err
	}
	if now.Before(tracked.Add(unused)) {
		c.loop.AddAfter(key, interval)
		return nil
	}
	all, err := c.secrets.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list secrets: %w", err)
	}
	var errs []error
	named := map[string]map[string]bool{} // by namespace: the secrets that pods name
	for _, s := range all {
		if !idle(s, now) || !c.generated(s) {
			continue
		}
		if named[s.Namespace] == nil {
			if named[s.Namespace], err = c.namedIn(s.Namespace); err != nil {
				return err
			}
		}
		if !named[s.Namespace][s.Name] {
			errs = append(errs, c.end(ctx, s, now))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	c.loop.AddAfter(key, interval)
	return nil
}

// trackedSince is the first moment of the first day of which the use is known whole.
func (c *Cleaner) trackedSince(ctx context.Context) (time.Time, error) {
	m, err := c.client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, trackingName, metav1.GetOptions{})
	if err != nil {
		return time.Time{}, fmt.Errorf("since when the use of tokens is noted: %w", err)
	}
	day, err := time.Parse(dateFormat, m.Data[since])
	if err != nil {
		return time.Time{}, fmt.Errorf("since when the use of tokens is noted: %w", err)
	}
	return day.AddDate(0, 0, 1), nil
}

// idle says that a secret holds a token that was there and not used for long. What its label says in no way that can be read was perhaps used.
func idle(s *corev1.Secret, now time.Time) bool {
	border := now.Add(-unused)
	if s.Type != corev1.SecretTypeServiceAccountToken || s.DeletionTimestamp != nil || !s.CreationTimestamp.Time.Before(border) {
		return false
	}
	used, noted := s.Labels[lastUsed]
	if !noted {
		return true
	}
	_, err := time.Parse(dateFormat, used)
	return err == nil && used < border.Format(dateFormat)
}

// generated says that the secret was made for its account without being asked for: the account lists it.
func (c *Cleaner) generated(s *corev1.Secret) bool {
	a, err := c.accounts.ServiceAccounts(s.Namespace).Get(s.Annotations[corev1.ServiceAccountNameKey])
	if err != nil {
		return false // the account is gone, and another controller removes its tokens
	}
	uid := s.Annotations[corev1.ServiceAccountUIDKey]
	return (uid == "" || uid == string(a.UID)) && slices.ContainsFunc(a.Secrets, func(r corev1.ObjectReference) bool { return r.Name == s.Name })
}

// end marks a token as invalid, or removes one that has been marked for long.
func (c *Cleaner) end(ctx context.Context, s *corev1.Secret, now time.Time) error {
	api := c.client.CoreV1().Secrets(s.Namespace)
	marked := s.Labels[invalidSince]
	if _, err := time.Parse(dateFormat, marked); err != nil {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": s.UID, "labels": map[string]string{invalidSince: now.Format(dateFormat)}}})
		if err != nil {
			return fmt.Errorf("encode patch: %w", err)
		}
		if _, err := api.Patch(ctx, s.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("mark secret %s/%s as invalid: %w", s.Namespace, s.Name, err)
		}
		c.log.Info("a token of a service account that nobody uses is invalid from now on", "secret", s.Namespace+"/"+s.Name)
		return nil
	}
	if marked >= now.Add(-unused).Format(dateFormat) {
		return nil
	}
	err := api.Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // whatever changed it, tomorrow is time enough
		return fmt.Errorf("delete secret %s/%s: %w", s.Namespace, s.Name, err)
	}
	c.log.Info("a token of a service account that was invalid for long is removed", "secret", s.Namespace+"/"+s.Name)
	return nil
}

// namedIn are the secrets that pods of a namespace name.
func (c *Cleaner) namedIn(namespace string) (map[string]bool, error) {
	pods, err := c.pods.Pods(namespace).List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	names := map[string]bool{}
	for _, p := range pods {
		collect(&p.Spec, func(name string) { names[name] = true })
	}
	return names, nil
}

// collect tells of every secret that a pod names.
func collect(spec *corev1.PodSpec, add func(string)) {
	local := func(r *corev1.LocalObjectReference) {
		if r != nil {
			add(r.Name)
		}
	}
	for i := range spec.ImagePullSecrets {
		local(&spec.ImagePullSecrets[i])
	}
	variables := func(from []corev1.EnvFromSource, env []corev1.EnvVar) {
		for i := range from {
			if r := from[i].SecretRef; r != nil {
				add(r.Name)
			}
		}
		for i := range env {
			if v := env[i].ValueFrom; v != nil && v.SecretKeyRef != nil {
				add(v.SecretKeyRef.Name)
			}
		}
	}
	for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			variables(containers[i].EnvFrom, containers[i].Env)
		}
	}
	for i := range spec.EphemeralContainers {
		variables(spec.EphemeralContainers[i].EnvFrom, spec.EphemeralContainers[i].Env)
	}
	for i := range spec.Volumes {
		switch v := &spec.Volumes[i].VolumeSource; {
		case v.Secret != nil:
			add(v.Secret.SecretName)
		case v.Projected != nil:
			for j := range v.Projected.Sources {
				if s := v.Projected.Sources[j].Secret; s != nil {
					add(s.Name)
				}
			}
		case v.CSI != nil:
			local(v.CSI.NodePublishSecretRef)
		case v.FlexVolume != nil:
			local(v.FlexVolume.SecretRef)
		case v.AzureFile != nil:
			add(v.AzureFile.SecretName)
		case v.CephFS != nil:
			local(v.CephFS.SecretRef)
		case v.Cinder != nil:
			local(v.Cinder.SecretRef)
		case v.RBD != nil:
			local(v.RBD.SecretRef)
		case v.ISCSI != nil:
			local(v.ISCSI.SecretRef)
		case v.ScaleIO != nil:
			local(v.ScaleIO.SecretRef)
		case v.StorageOS != nil:
			local(v.StorageOS.SecretRef)
		}
	}
}
