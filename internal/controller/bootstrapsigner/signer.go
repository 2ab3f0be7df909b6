package bootstrapsigner

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// The ConfigMap that is signed: what of it, and where the signatures go.
const (
	ClusterInfo     = "cluster-info"
	kubeconfigKey   = "kubeconfig"
	signaturePrefix = "jws-kubeconfig-"
)

// Controller signs the cluster's information; its one key is that of the ConfigMap.
type Controller struct {
	client     kubernetes.Interface
	configMaps corelisters.ConfigMapLister
	secrets    corelisters.SecretLister
	clock      clock.PassiveClock
	loop       *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	configMaps, secrets := f.Core().V1().ConfigMaps(), f.Core().V1().Secrets()
	ctl := &Controller{client: c, configMaps: configMaps.Lister(), secrets: secrets.Lister(), clock: clk}
	ctl.loop = controller.NewLoop("bootstrap_signer_queue", ctl.Reconcile, controller.Options{
		Workers: 1, Synced: []cache.InformerSynced{configMaps.Informer().HasSynced, secrets.Informer().HasSynced}, Log: log, Metrics: m,
	})
	const key = metav1.NamespacePublic + "/" + ClusterInfo
	token := func(s *corev1.Secret) {
		if isToken(s) {
			ctl.loop.Add(key)
		}
	}
	if err := errors.Join(
		controller.Watch(configMaps.Informer(), controller.Handlers[*corev1.ConfigMap]{Changed: func(cm *corev1.ConfigMap) {
			if cm.Namespace == metav1.NamespacePublic && cm.Name == ClusterInfo {
				ctl.loop.Add(key)
			}
		}}),
		controller.Watch(secrets.Informer(), controller.Handlers[*corev1.Secret]{Changed: token, Delete: token}),
	); err != nil {
		return nil, fmt.Errorf("bootstrapsigner: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// Reconcile gives the ConfigMap the signatures of the tokens that are good now, and takes others away.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	cm, err := c.configMaps.ConfigMaps(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get config map: %w", err)
	}
	content, ok := cm.Data[kubeconfigKey]
	if !ok {
		return nil
	}
	secrets, err := c.secrets.Secrets(metav1.NamespaceSystem).List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list tokens: %w", err)
	}
	data := maps.Clone(cm.Data)
	maps.DeleteFunc(data, func(k, _ string) bool { return strings.HasPrefix(k, signaturePrefix) })
	now, soonest := c.clock.Now(), time.Duration(0)
	for _, s := range secrets {
		id, secret, ok := signs(s, now)
		if !ok {
			continue
		}
		data[signaturePrefix+id] = sign(content, id, secret)
		if d, ends := left(s, now); ends && (soonest == 0 || d < soonest) {
			soonest = d
		}
	}
	if soonest > 0 {
		c.loop.AddAfter(key, soonest)
	}
	if maps.Equal(data, cm.Data) {
		return nil
	}
	signed := cm.DeepCopy()
	signed.Data = data
	_, err = c.client.CoreV1().ConfigMaps(namespace).Update(ctx, signed, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sign config map: %w", err)
	}
	return nil
}

// sign makes a detached JSON Web Signature of content in its compact form (RFC 7515, section 7.1), with HMAC-SHA256.
func sign(content, id string, secret []byte) string {
	header, _ := json.Marshal(struct {
		Algorithm string `json:"alg"`
		Key       string `json:"kid"`
	}{"HS256", id}) // strings
	encode := base64.RawURLEncoding.EncodeToString
	mac := hmac.New(sha256.New, secret)
	_, _ = mac.Write([]byte(encode(header) + "." + encode([]byte(content)))) // a hash takes everything
	return encode(header) + ".." + encode(mac.Sum(nil))
}
