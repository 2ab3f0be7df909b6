package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/apiserver/admission"
)

// callError says that a webhook could not be asked or answered nonsense: what its failure policy is about.
type callError struct {
	webhook string
	reason  error
	// code is the HTTP status that the failure counts as.
	code int
}

func (e *callError) Error() string {
	return fmt.Sprintf("failed calling webhook %q: %v", e.webhook, e.reason)
}
func (e *callError) Unwrap() error { return e.reason }

func deniedBy(name string) string {
	return fmt.Sprintf("admission webhook %q denied the request", name)
}

// denied is the refusal of a webhook, with the status that it gave.
func denied(name string, s *metav1.Status) error {
	if s == nil {
		s = &metav1.Status{}
	}
	s.Code = max(s.Code, http.StatusBadRequest)
	if s.Status == "" || s.Status == metav1.StatusSuccess {
		s.Status = metav1.StatusFailure
	}
	by := deniedBy(name)
	switch {
	case s.Message != "":
		s.Message = by + ": " + s.Message
	case s.Reason != "":
		s.Message = by + ": " + string(s.Reason)
	default:
		s.Message = by + " without explanation"
	}
	return &apierrors.StatusError{ErrStatus: *s}
}

// call asks h and returns its permission, with its patch if it is mutating. A refusal is an error in the API's shape, a failure a
// callError.
func (c *Config) call(ctx context.Context, h *hook, a *admission.Attributes, d admission.Door, e encoded, mutating bool) (*answer, error) {
	failed := func(what string, err error, code int) error {
		return &callError{h.name, fmt.Errorf("%s: %w", what, err), code}
	}
	if a.DryRun && !h.onDryRun {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("admission webhook %q does not support dry run", h.name))
	}
	uid, version, body, err := h.question(a, d, e)
	if err != nil {
		return nil, failed("could not create admission objects", err, http.StatusBadRequest)
	}
	target := h.target
	target.Identities = c.Identities
	caller, err := c.Client.For(target)
	if err != nil {
		return nil, failed("could not get REST client", err, http.StatusInternalServerError)
	}
	if h.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.timeout)
		defer cancel()
	}
	data, err := caller.Post(ctx, body)
	if err != nil {
		code := http.StatusServiceUnavailable
		if status := apierrors.APIStatus(nil); errors.As(err, &status) {
			code = int(status.Status().Code)
		}
		return nil, failed("failed to call webhook", err, code)
	}
	got, err := readAnswer(data, uid, version, mutating)
	if unreadable := (*unreadable)(nil); errors.As(err, &unreadable) {
		return nil, failed("failed to call webhook", unreadable.error, http.StatusServiceUnavailable)
	}
	if err != nil {
		return nil, failed("received invalid webhook response", err, http.StatusServiceUnavailable)
	}
	return got, nil
}

// told passes on what a webhook says besides its decision, and makes an error of a refusal.
func (h *hook) told(a *admission.Attributes, got *answer) error {
	for k, v := range got.notes {
		a.Note(h.name+"/"+k, v)
	}
	for _, w := range got.warnings {
		a.Warn(w)
	}
	if !got.allowed {
		return denied(h.name, got.status)
	}
	return nil
}

// count tells the metrics of a call and what came of it.
func (h *hook) count(a *admission.Attributes, sort string, err error, took time.Duration) {
	if a.Metrics == nil {
		return
	}
	code, reason := http.StatusOK, ""
	var call *callError
	var status *apierrors.StatusError
	switch {
	case err == nil:
	case errors.As(err, &call):
		code = call.code
		if !h.failOpen {
			reason = admission.CallFailed
		}
	case errors.As(err, &status) && strings.HasPrefix(status.ErrStatus.Message, deniedBy(h.name)):
		code, reason = int(status.ErrStatus.Code), admission.NoError
	default:
		code, reason = 0, admission.InternalError
	}
	if reason != "" && !(call != nil && errors.Is(err, context.Canceled)) {
		a.Metrics.WebhookRejected(h.name, sort, a.Operation, reason, code)
	}
	a.Metrics.Webhook(h.name, sort, a.Operation, code, reason != "", took)
	if call != nil && h.failOpen && !errors.Is(err, context.Canceled) {
		a.Metrics.WebhookFailedOpen(h.name, sort)
	}
}

// excused says whether err is a failure that h's policy passes over.
func (h *hook) excused(err error) bool {
	var call *callError
	return h.failOpen && errors.As(err, &call)
}

// shown is err as the client sees it.
func shown(err error) error {
	var call *callError
	if errors.As(err, &call) {
		return apierrors.NewInternalError(err)
	}
	return err
}

var errTooLate = apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
