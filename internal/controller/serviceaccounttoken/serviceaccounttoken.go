package serviceaccounttoken

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// Sign makes the token that a secret holds.
type Sign func(account *corev1.ServiceAccount, secret *corev1.Secret) (string, error)

// Controller reconciles secrets.
type Controller struct {
	client   kubernetes.Interface
	secrets  corelisters.SecretLister
	accounts corelisters.ServiceAccountLister
	sign     Sign
	ca       []byte
	loop     *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts. ca is what clients check the API server by, in PEM form.
func New(c kubernetes.Interface, f *informers.Factory, sign Sign, ca []byte, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	secrets, accounts := f.Core().V1().Secrets(), f.Core().V1().ServiceAccounts()
	ctl := &Controller{client: c, secrets: secrets.Lister(), accounts: accounts.Lister(), sign: sign, ca: ca}
	ctl.loop = controller.NewLoop("serviceaccount-tokens", ctl.Reconcile, controller.Options{
		Synced: []cache.InformerSynced{secrets.Informer().HasSynced, accounts.Informer().HasSynced}, Log: log, Metrics: m,
	})
	if err := errors.Join(
		controller.Watch(secrets.Informer(), controller.Handlers[*corev1.Secret]{
			Changed: func(s *corev1.Secret) {
				if s.Type == corev1.SecretTypeServiceAccountToken {
					ctl.loop.AddObject(s)
				}
			},
			Delete: func(s *corev1.Secret) {
				if s.Type == corev1.SecretTypeServiceAccountToken {
					ctl.loop.Add(goneKey + strings.Join([]string{s.Namespace, s.Annotations[corev1.ServiceAccountNameKey], s.Name, s.Annotations[corev1.ServiceAccountUIDKey]}, "/"))
				}
			},
		}),
		controller.Watch(accounts.Informer(), controller.Handlers[*corev1.ServiceAccount]{Changed: ctl.accountChanged, Delete: ctl.accountChanged}),
	); err != nil {
		return nil, fmt.Errorf("serviceaccounttoken: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) accountChanged(a *corev1.ServiceAccount) {
	all, err := c.secrets.Secrets(a.Namespace).List(labels.Everything())
	if err != nil {
		return // a cache does not fail
	}
	for _, s := range all {
		if s.Type == corev1.SecretTypeServiceAccountToken && s.Annotations[corev1.ServiceAccountNameKey] == a.Name {
			c.loop.AddObject(s)
		}
	}
}

// belongs says that a secret is meant for the account.
func belongs(s *corev1.Secret, a *corev1.ServiceAccount) bool {
	uid := s.Annotations[corev1.ServiceAccountUIDKey]
	return s.Annotations[corev1.ServiceAccountNameKey] == a.Name && (uid == "" || uid == string(a.UID))
}

// Reconcile fills or removes one secret.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	if gone, ok := strings.CutPrefix(key, goneKey); ok {
		parts := strings.SplitN(gone, "/", 4)
		return c.unlist(ctx, parts[0], parts[1], parts[2], parts[3])
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	secret, err := c.secrets.Secrets(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && (secret.Type != corev1.SecretTypeServiceAccountToken || secret.DeletionTimestamp != nil) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get secret: %w", err)
	}
	account, err := c.accounts.ServiceAccounts(namespace).Get(secret.Annotations[corev1.ServiceAccountNameKey])
	if err == nil && belongs(secret, account) {
		return c.fill(ctx, account, secret)
	}
	// The cache may be behind: an account that was made just before its secret is not to cost it.
	account, err = c.client.CoreV1().ServiceAccounts(namespace).Get(ctx, secret.Annotations[corev1.ServiceAccountNameKey], metav1.GetOptions{})
	switch {
	case err == nil && belongs(secret, account):
		return c.fill(ctx, account, secret)
	case err != nil && !apierrors.IsNotFound(err):
		return fmt.Errorf("get service account: %w", err)
	}
	err = c.client.CoreV1().Secrets(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(secret.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete secret: %w", err)
	}
	return nil
}

// goneKey is before namespace, account, name and account's uid of a secret that was deleted.
const goneKey = "gone:"

// unlist takes a secret that is gone off the list of its account's secrets. One that was another account's, of the same name, was never on it: whom the
// list names is yet to come.
func (c *Controller) unlist(ctx context.Context, namespace, account, secret, uid string) error {
	listed := func(r corev1.ObjectReference) bool { return r.Name == secret }
	a, err := c.accounts.ServiceAccounts(namespace).Get(account)
	if apierrors.IsNotFound(err) || err == nil && (uid != "" && uid != string(a.UID) || !slices.ContainsFunc(a.Secrets, listed)) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get service account: %w", err)
	}
	if _, err := c.secrets.Secrets(namespace).Get(secret); err == nil {
		return nil // there is another by now
	}
	a = a.DeepCopy()
	a.Secrets = slices.DeleteFunc(a.Secrets, listed)
	if _, err := c.client.CoreV1().ServiceAccounts(namespace).Update(ctx, a, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update service account: %w", err)
	}
	return nil
}

// fill writes what a secret lacks.
func (c *Controller) fill(ctx context.Context, a *corev1.ServiceAccount, secret *corev1.Secret) error {
	updated := secret.DeepCopy()
	changed := false
	if updated.Data == nil {
		updated.Data = map[string][]byte{}
	}
	if len(c.ca) > 0 && !bytes.Equal(updated.Data[corev1.ServiceAccountRootCAKey], c.ca) {
		updated.Data[corev1.ServiceAccountRootCAKey], changed = c.ca, true
	}
	if len(updated.Data[corev1.ServiceAccountNamespaceKey]) == 0 {
		updated.Data[corev1.ServiceAccountNamespaceKey], changed = []byte(secret.Namespace), true
	}
	if len(updated.Data[corev1.ServiceAccountTokenKey]) == 0 {
		token, err := c.sign(a, secret)
		if err != nil {
			return fmt.Errorf("make token: %w", err)
		}
		updated.Data[corev1.ServiceAccountTokenKey], changed = []byte(token), true
	}
	if updated.Annotations[corev1.ServiceAccountUIDKey] != string(a.UID) {
		updated.Annotations[corev1.ServiceAccountUIDKey], changed = string(a.UID), true
	}
	if !changed {
		return nil
	}
	if _, err := c.client.CoreV1().Secrets(secret.Namespace).Update(ctx, updated, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update secret: %w", err)
	}
	return nil
}
