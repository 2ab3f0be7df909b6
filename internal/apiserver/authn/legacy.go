package authn

import (
	"context"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/internal/apiserver/request"
)

const (
	// lastUsedLabel of a secret is the day on which its token was last used, in UTC; invalidSinceLabel the one since which it is not good any more.
	lastUsedLabel     = "kubernetes.io/legacy-token-last-used"
	invalidSinceLabel = "kubernetes.io/legacy-token-invalid-since"
	dateFormat        = "2006-01-02"
	// notingPause is between two attempts to note the use of one token, which may fail, or be under way.
	notingPause = time.Minute
)

// Notes notes the use of tokens that live in secrets (KEP-2799), and of those of pods that live longer than they say (KEP-1205).
type Notes struct {
	// Label writes a label of a secret. It may take its time: it is called once a day for each token, by who uses it first.
	Label func(ctx context.Context, secret *corev1.Secret, key, value string) error
	Log   *slog.Logger
	// Metrics counts uses under upstream's names.
	Metrics prometheus.Registerer
}

// notes are Notes at work.
type notes struct {
	Notes
	all, manual, generated, invalid prometheus.Counter
	valid, stale                    prometheus.Counter
	tried                           *generations[types.UID, time.Time]
}

// Note begins to note the use of tokens. It is called once, before tokens are checked.
func (s *ServiceAccounts) Note(n Notes) {
	count := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Subsystem: "serviceaccount", Name: name, Help: help})
		n.Metrics.MustRegister(c)
		return c
	}
	s.notes = &notes{
		Notes:     n,
		all:       count("legacy_tokens_total", "Uses of tokens that live in secrets."),
		manual:    count("legacy_manual_token_uses_total", "Uses of tokens in secrets that somebody made."),
		generated: count("legacy_auto_token_uses_total", "Uses of tokens in secrets that were made for every account."),
		invalid:   count("invalid_legacy_auto_token_uses_total", "Refused uses of tokens that are invalid because nobody had used them."),
		valid:     count("valid_tokens_total", "Uses of tokens of pods that live longer than they say, within the time that they say."),
		stale:     count("stale_tokens_total", "Uses of tokens of pods past the time that they say: who uses them doesn't read new ones."),
		tried:     newGenerations[types.UID, time.Time](1024),
	}
}

// checkLegacy checks a token that lives in a secret: it is good for as long as the secret holds it and nobody has marked it.
func (s *ServiceAccounts) checkLegacy(ctx context.Context, c *claims, token string, audiences []string) (Authenticated, error) {
	secret, err := s.objects.Secret(ctx, c.LegacyNamespace, c.LegacySecret)
	if err != nil {
		return Authenticated{}, invalidated(err)
	}
	if secret.DeletionTimestamp != nil || subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(token)) != 1 {
		return Authenticated{}, errBinding
	}
	// It says nothing of audiences: it is for this API server.
	shared := slices.DeleteFunc(slices.Clone(audiences), func(a string) bool { return !slices.Contains(s.issuer.audiences, a) })
	if len(shared) == 0 {
		return Authenticated{}, fmt.Errorf("token audiences %q is invalid for the target audiences %q", s.issuer.audiences, audiences)
	}
	ref := objectRef{Name: c.LegacyAccount, UID: c.LegacyAccountUID}
	account, err := s.checkAccount(ctx, s.clock.Now(), c.LegacyNamespace, ref)
	if err != nil {
		return Authenticated{}, err
	}
	if err := s.note(ctx, account, secret); err != nil {
		return Authenticated{}, err
	}
	return Authenticated{User: accountUser(c.LegacyNamespace, ref, nil), Audiences: shared}, nil
}

// note tells of the use of a token, and refuses one that is marked as invalid.
func (s *ServiceAccounts) note(ctx context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) error {
	annotate := func(key, value string) {
		if scope := request.ScopeFrom(ctx); scope != nil {
			scope.Annotate("authentication.k8s.io/"+key, value)
		}
	}
	n := s.notes
	if secret.Labels[invalidSinceLabel] != "" {
		annotate("legacy-token-invalidated", secret.Name+"/"+secret.Namespace)
		if n != nil {
			n.invalid.Inc()
			n.label(ctx, secret, s.clock.Now())
		}
		return fmt.Errorf("the token in secret %s/%s for service account %s/%s has been marked invalid. "+
			"Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '%s' label from the secret to temporarily allow use of this token",
			secret.Namespace, secret.Name, account.Namespace, account.Name, invalidSinceLabel)
	}
	generated := slices.ContainsFunc(account.Secrets, func(r corev1.ObjectReference) bool { return r.Name == secret.Name })
	if generated {
		request.Warn(ctx, "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens.")
		annotate("legacy-token-autogenerated-secret", secret.Name)
	} else {
		annotate("legacy-token-manual-secret", secret.Name)
	}
	if n == nil {
		return nil
	}
	n.all.Inc()
	if generated {
		n.generated.Inc()
	} else {
		n.manual.Inc()
	}
	n.label(ctx, secret, s.clock.Now())
	return nil
}

// noteAge tells whether a token that lives longer than it says is used past its time: the grace is for programs that read their token once and never
// again, and those shall be found before there is none.
func (s *ServiceAccounts) noteAge(ctx context.Context, c *claims, now time.Time) {
	after := c.Kubernetes.WarnAfter
	if after == nil || *after == 0 {
		return
	}
	if !now.After(after.Time()) {
		if s.notes != nil {
			s.notes.valid.Inc()
		}
		return
	}
	if s.notes != nil {
		s.notes.stale.Inc()
	}
	if scope := request.ScopeFrom(ctx); scope != nil {
		scope.Annotate("authentication.k8s.io/stale-token",
			fmt.Sprintf("subject: %s, seconds after warning threshold: %d", c.Subject, now.Unix()-after.Time().Unix()))
	}
}

// label says that a token was used today, unless that is known. Another server's clock may be in tomorrow.
func (n *notes) label(ctx context.Context, secret *corev1.Secret, now time.Time) {
	today, tomorrow := now.UTC().Format(dateFormat), now.UTC().AddDate(0, 0, 1).Format(dateFormat)
	if used := secret.Labels[lastUsedLabel]; used == today || used == tomorrow {
		return
	}
	if last, ok := n.tried.get(secret.UID); ok && now.Sub(last) < notingPause {
		return
	}
	n.tried.put(secret.UID, now)
	if err := n.Label(ctx, secret, lastUsedLabel, today); err != nil {
		n.Log.Error("the use of a token could not be noted", "secret", secret.Namespace+"/"+secret.Name, "err", err)
	}
}
