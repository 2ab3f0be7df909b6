package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A pod's image is pulled with what a plugin says to a token of the pod's service account.
func TestImageIsPulledWithALoginOfAPlugin(t *testing.T) {
	r := newRig(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "builder", UID: "sa-1"}})
	r.client.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		c, _ := a.(clienttesting.CreateActionImpl)
		request, ok := c.Object.(*authenticationv1.TokenRequest)
		if !ok {
			return false, nil, nil
		}
		request.Status.Token = c.Name + "/" + request.Spec.Audiences[0] + "/" + string(request.Spec.BoundObjectRef.UID)
		return true, request, nil
	})
	dir := t.TempDir()
	for name, text := range map[string]string{
		"config.yaml": `apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: plugin
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: [docker.io]
  defaultCacheDuration: 0s
  tokenAttributes: {serviceAccountTokenAudience: registry, cacheType: Token, requireServiceAccount: true}
`,
		// It gives the token back as the password.
		"plugin": `#!/bin/sh
token=$(sed 's/.*"serviceAccountToken":"\([^"]*\)".*/\1/')
echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Image","auth":{"docker.io":{"username":"token","password":"'$token'"}}}'
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.adjust = func(c *Config) { c.ImageCredentials, c.ImageCredentialsBinDir = filepath.Join(dir, "config.yaml"), dir }
	logins := make(chan string, 1)
	r.runtime.Pull = func(_ context.Context, _ string, a *runtimeapi.AuthConfig) error {
		select {
		case logins <- a.GetUsername() + " " + a.GetPassword():
		default:
		}
		if a == nil {
			return errors.New("unauthorized")
		}
		return nil
	}
	r.startReal()
	defer func() { r.stop() }()
	pod := testPod("private", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "builder" })
	if _, err := r.client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, want := <-logins, "token builder/registry/uid-private"; got != want {
		t.Errorf("pulled with %q, want %q", got, want)
	}
}
