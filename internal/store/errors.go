package store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/store/kv"
)

// continueExpired is what clients are told whose continue token is older than the history (KEP-365).
const continueExpired = "The provided continue parameter is too old to display a consistent list result. " +
	"You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. " +
	"Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list."

// ErrUnregistered ends the watches of a resource that is no longer registered, or is registered anew in another form.
var ErrUnregistered = errors.New("the resource is no longer registered")

// errClosed ends what waits for a store or a collection that is gone.
var errClosed = fmt.Errorf("store is closed: %w", kv.ErrUnavailable)

func name(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

func (c *Collection) notFound(key string) error {
	return apierrors.NewNotFound(c.res.GroupResource, name(key))
}

// engineError turns an engine's error into the API's. What it does not know stays as it is and becomes a 500 at the door.
func engineError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kv.ErrNoSpace):
		return status(http.StatusInternalServerError, metav1.StatusReasonUnknown, "etcdserver: mvcc: database space exceeded")
	case errors.Is(err, kv.ErrTooLarge):
		return status(http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge, "etcdserver: request is too large")
	case errors.Is(err, kv.ErrCompacted):
		return apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	case errors.Is(err, kv.ErrUnavailable):
		return apierrors.NewServiceUnavailable(err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return apierrors.NewTimeoutError(err.Error(), 0)
	}
	return err
}

func status(code int32, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
}

// futureRevision is the answer to a revision that this store has not seen within the time that it waits.
func futureRevision(asked, current int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", asked, current), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version",
	}}
	return err
}

// listAgain makes of futureRevision what a watch is answered with: it does not ask clients to try again, which many do ten times before they list.
func listAgain(err error) error {
	var future *apierrors.StatusError
	if errors.As(err, &future) && future.ErrStatus.Details != nil {
		future.ErrStatus.Details.RetryAfterSeconds = 0
	}
	return err
}

func watchExpired(asked, oldest int64) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", asked, oldest))
}

func badContinue(err error) error {
	return apierrors.NewBadRequest(fmt.Sprintf("invalid continue token: %v", err))
}
