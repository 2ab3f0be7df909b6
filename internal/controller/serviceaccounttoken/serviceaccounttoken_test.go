package serviceaccounttoken

import (
	"context"
	"fmt"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLifeOfATokenSecret(t *testing.T) {
	t.Parallel()
	e := controllertest.Start(t)
	sign := func(a *corev1.ServiceAccount, s *corev1.Secret) (string, error) { return "token-of-" + a.Name, nil }
	c, err := New(e.Client, e.Informers, sign, []byte("the ca"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, c)
	ctx := context.Background()
	accounts, secrets := e.Client.CoreV1().ServiceAccounts("default"), e.Client.CoreV1().Secrets("default")
	account, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	create := func(name string, annotations map[string]string) {
		t.Helper()
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}, Type: corev1.SecretTypeServiceAccountToken}
		if _, err := secrets.Create(ctx, s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(name string) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			if _, err := secrets.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("secret %s: %v", name, err)
			}
			return nil
		})
	}
	filled := func(name string) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			s, err := secrets.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if string(s.Data["token"]) != "token-of-a" || string(s.Data["ca.crt"]) != "the ca" || string(s.Data["namespace"]) != "default" || s.Annotations[corev1.ServiceAccountUIDKey] != string(account.UID) {
				return fmt.Errorf("secret %+v", s)
			}
			return nil
		})
	}
	create("good", map[string]string{corev1.ServiceAccountNameKey: "a"})
	filled("good")
	create("orphan", map[string]string{corev1.ServiceAccountNameKey: "nobody"})
	gone("orphan")
	create("other", map[string]string{corev1.ServiceAccountNameKey: "a", corev1.ServiceAccountUIDKey: "namesake"})
	gone("other")
	s, err := secrets.Get(ctx, "good", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.Data = nil // who takes the token away gets another
	if _, err := secrets.Update(ctx, s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	filled("good")
	// An account's list does not name secrets that are gone.
	create("listed", map[string]string{corev1.ServiceAccountNameKey: "a"})
	filled("listed")
	if err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		a, err := accounts.Get(ctx, "a", metav1.GetOptions{})
		if err != nil {
			return err
		}
		a.Secrets = []corev1.ObjectReference{{Name: "good"}, {Name: "listed"}}
		_, err = accounts.Update(ctx, a, metav1.UpdateOptions{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error { // the cache has the list
		if a, err := c.accounts.ServiceAccounts("default").Get("a"); err != nil || len(a.Secrets) != 2 {
			return fmt.Errorf("account in the cache %+v, %w", a, err)
		}
		return nil
	})
	if err := secrets.Delete(ctx, "listed", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error {
		a, err := accounts.Get(ctx, "a", metav1.GetOptions{})
		if err != nil || len(a.Secrets) != 1 || a.Secrets[0].Name != "good" {
			return fmt.Errorf("secrets of the account: %+v, %w", a, err)
		}
		return nil
	})
	// What was meant for an account that had the name before says nothing of this one's list.
	a, err := accounts.Get(ctx, "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a.Secrets = []corev1.ObjectReference{{Name: "good"}, {Name: "later"}}
	if a, err = accounts.Update(ctx, a, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error { // the cache has the list
		if cached, err := c.accounts.ServiceAccounts("default").Get("a"); err != nil || cached.ResourceVersion != a.ResourceVersion {
			return fmt.Errorf("account in the cache %+v, %w", cached, err)
		}
		return nil
	})
	for _, tt := range []struct {
		uid  string
		left int
	}{{"namesake", 2}, {string(a.UID), 1}} {
		if err := c.unlist(ctx, "default", "a", "later", tt.uid); err != nil {
			t.Fatal(err)
		}
		if a, err := accounts.Get(ctx, "a", metav1.GetOptions{}); err != nil || len(a.Secrets) != tt.left {
			t.Errorf("after a secret of %q was deleted: %+v, %v", tt.uid, a.Secrets, err)
		}
	}
	if err := accounts.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	gone("good")
}
