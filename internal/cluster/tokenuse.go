package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/internal/apiserver/authn"
)

// noteTimeout bounds the write that notes the use of a token; the request that shows the token waits for it, once a day.
const noteTimeout = 10 * time.Second

// noteTokenUse has the API server note in secrets when their tokens were last used.
func (p *controlPlane) noteTokenUse(log *slog.Logger) {
	p.accounts.Note(authn.Notes{Log: log, Metrics: p.metrics, Label: func(_ context.Context, secret *corev1.Secret, key, value string) error {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": secret.UID, "labels": map[string]string{key: value}}})
		if err != nil {
			return fmt.Errorf("encode patch: %w", err)
		}
		// The API server's own request, not a part of the one that showed the token: that one's end is not its end.
		own, cancel := context.WithTimeout(context.Background(), noteTimeout)
		defer cancel()
		if _, err := p.admin.CoreV1().Secrets(secret.Namespace).Patch(own, secret.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("patch secret: %w", err)
		}
		return nil
	}})
}
