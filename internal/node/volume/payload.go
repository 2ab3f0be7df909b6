package volume

import (
	"context"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/node/downward"
)

// defaultFileMode is the mode of files in such volumes where nothing else is said.
const defaultFileMode = 0o644

// build collects one volume's files.
type build struct {
	m       *Manager
	pod     *corev1.Pod
	volume  string
	payload Payload
	gid     *int64    // fsGroup
	uid     *int64    // the one user that all containers run as, nil if there isn't one
	refresh time.Time // when a token has to be replaced; zero: never
}

func (b *build) mode(explicit *int32, fallback *int32) os.FileMode {
	mode := os.FileMode(defaultFileMode)
	if fallback != nil {
		mode = os.FileMode(*fallback)
	}
	if explicit != nil {
		mode = os.FileMode(*explicit)
	}
	if b.gid != nil {
		mode |= 0o440 // the group must be able to read
	}
	return mode
}

func (b *build) add(path string, data []byte, mode os.FileMode) error {
	if err := checkPath(path); err != nil {
		return err
	}
	b.payload[path] = File{Data: data, Mode: mode}
	return nil
}

// content is what config maps and secrets have in common.
type content struct {
	what string // "config" or "secret", for messages
	data map[string][]byte
}

func (b *build) keys(c content, items []corev1.KeyToPath, defaultMode *int32, optional bool) error {
	if len(items) == 0 {
		for k, v := range c.data {
			if err := b.add(k, v, b.mode(nil, defaultMode)); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range items {
		data, ok := c.data[items[i].Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("references non-existent %s key: %s", c.what, items[i].Key)
		}
		if err := b.add(items[i].Path, data, b.mode(items[i].Mode, defaultMode)); err != nil {
			return err
		}
	}
	return nil
}

func (b *build) configMap(ctx context.Context, name string, items []corev1.KeyToPath, mode *int32, optional *bool) error {
	may := optional != nil && *optional
	cm, err := b.m.sources.ConfigMap(ctx, b.pod.Namespace, name)
	if err != nil {
		if may && apierrors.IsNotFound(err) {
			return nil
		}
		return singular(err)
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	maps.Copy(data, cm.BinaryData)
	return b.keys(content{"config", data}, items, mode, may)
}

func (b *build) secret(ctx context.Context, name string, items []corev1.KeyToPath, mode *int32, optional *bool) error {
	may := optional != nil && *optional
	s, err := b.m.sources.Secret(ctx, b.pod.Namespace, name)
	if err != nil {
		if may && apierrors.IsNotFound(err) {
			return nil
		}
		return singular(err)
	}
	return b.keys(content{"secret", s.Data}, items, mode, may)
}

// singular turns the API's plural ("configmaps \"x\" not found") into the wording that people know from pods' events.
func singular(err error) error {
	if !apierrors.IsNotFound(err) {
		return err
	}
	text := strings.Replace(err.Error(), "configmaps ", "configmap ", 1)
	return fmt.Errorf("%s", strings.Replace(text, "secrets ", "secret ", 1))
}

func (b *build) downward(items []corev1.DownwardAPIVolumeFile, mode *int32) error {
	node := b.m.node(b.pod)
	for i := range items {
		item := &items[i]
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = downward.Field(b.pod, node, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			value, err = downward.Resource(b.pod, nil, node, item.ResourceFieldRef)
		}
		if err != nil {
			return err
		}
		if err := b.add(item.Path, []byte(value), b.mode(item.Mode, mode)); err != nil {
			return err
		}
	}
	return nil
}

func (b *build) projected(ctx context.Context, src *corev1.ProjectedVolumeSource) error {
	for i := range src.Sources {
		s := &src.Sources[i]
		var err error
		switch {
		case s.Secret != nil:
			err = b.secret(ctx, s.Secret.Name, s.Secret.Items, src.DefaultMode, s.Secret.Optional)
		case s.ConfigMap != nil:
			err = b.configMap(ctx, s.ConfigMap.Name, s.ConfigMap.Items, src.DefaultMode, s.ConfigMap.Optional)
		case s.DownwardAPI != nil:
			err = b.downward(s.DownwardAPI.Items, src.DefaultMode)
		case s.ServiceAccountToken != nil:
			err = b.token(ctx, s.ServiceAccountToken, src.DefaultMode)
		case s.ClusterTrustBundle != nil:
			err = b.trustBundle(ctx, s.ClusterTrustBundle, src.DefaultMode)
		case s.PodCertificate != nil:
			err = b.podCertificate(ctx, i, s.PodCertificate, src.DefaultMode)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tokenKey names a token of a pod.
type tokenKey struct {
	volume, path, audience string
}

type token struct {
	value   string
	refresh time.Time
}

// token projects a token of the pod's service account, bound to the pod. It is replaced when four fifths of its life, or
// a day, are over.
func (b *build) token(ctx context.Context, p *corev1.ServiceAccountTokenProjection, defaultMode *int32) error {
	key := tokenKey{b.volume, p.Path, p.Audience}
	t, err := b.m.token(ctx, b.pod, key, p)
	if err != nil {
		return err
	}
	if b.refresh.IsZero() || t.refresh.Before(b.refresh) {
		b.refresh = t.refresh
	}
	return b.private(p.Path, []byte(t.value), defaultMode)
}

// AccountToken is a token of the pod's service account for an audience, bound to the pod. It is kept as those of volumes are.
func (m *Manager) AccountToken(ctx context.Context, pod *corev1.Pod, audience string) (string, error) {
	t, err := m.token(ctx, pod, tokenKey{audience: audience}, &corev1.ServiceAccountTokenProjection{Audience: audience})
	return t.value, err
}

func (m *Manager) token(ctx context.Context, pod *corev1.Pod, key tokenKey, p *corev1.ServiceAccountTokenProjection) (token, error) {
	now := m.clock.Now()
	m.mu.Lock()
	have, ok := m.tokens[pod.UID][key]
	m.mu.Unlock()
	if ok && now.Before(have.refresh) {
		return have, nil
	}
	seconds := int64(3600)
	if p.ExpirationSeconds != nil {
		seconds = *p.ExpirationSeconds
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if p.Audience != "" {
		request.Spec.Audiences = []string{p.Audience}
	}
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	answer, err := m.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		if ok && !apierrors.IsNotFound(err) && now.Before(have.refresh.Add(time.Hour)) {
			have.refresh = now.Add(time.Minute) // the old one still lives: try again later
			return have, nil
		}
		return token{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	life := time.Duration(seconds) * time.Second
	if !answer.Status.ExpirationTimestamp.IsZero() {
		life = answer.Status.ExpirationTimestamp.Sub(now)
	}
	t := token{value: answer.Status.Token, refresh: now.Add(min(life*8/10, 24*time.Hour))}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tokens[pod.UID] == nil {
		m.tokens[pod.UID] = map[tokenKey]token{}
	}
	m.tokens[pod.UID][key] = t
	return t, nil
}
