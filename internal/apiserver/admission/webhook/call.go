package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/apiserver/admission"
)

// callError says that a webhook could not be asked or answered nonsense: what its failure policy is about.
type callError struct {
	webhook string
	reason  error
}

func (e *callError) Error() string {
	return fmt.Sprintf("failed calling webhook %q: %v", e.webhook, e.reason)
}
func (e *callError) Unwrap() error { return e.reason }

// denied is the refusal of a webhook, with the status that it gave.
func denied(name string, s *metav1.Status) error {
	if s == nil {
		s = &metav1.Status{}
	}
	s.Code = max(s.Code, http.StatusBadRequest)
	if s.Status == "" || s.Status == metav1.StatusSuccess {
		s.Status = metav1.StatusFailure
	}
	by := fmt.Sprintf("admission webhook %q denied the request", name)
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
	failed := func(what string, err error) error { return &callError{h.name, fmt.Errorf("%s: %w", what, err)} }
	if a.DryRun && !h.onDryRun {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("admission webhook %q does not support dry run", h.name))
	}
	uid, version, body, err := h.question(a, d, e)
	if err != nil {
		return nil, failed("could not create admission objects", err)
	}
	caller, err := c.Client.For(h.target)
	if err != nil {
		return nil, failed("could not get REST client", err)
	}
	if h.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.timeout)
		defer cancel()
	}
	data, err := caller.Post(ctx, body)
	if err != nil {
		return nil, failed("failed to call webhook", err)
	}
	got, err := readAnswer(data, uid, version, mutating)
	if err != nil {
		return nil, failed("received invalid webhook response", err)
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
