package imagepull

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/node/backoff"
	"github.com/celox/celox/internal/node/imagelogin"
)

// The reasons of a container that waits for its image.
const (
	ReasonPull         = "ErrImagePull"
	ReasonBackOff      = "ImagePullBackOff"
	ReasonNeverPull    = "ErrImageNeverPull"
	ReasonInvalidName  = "InvalidImageName"
	ReasonInspect      = "ImageInspectError"
	reasonUnavailable  = "RegistryUnavailable"
	reasonSignature    = "SignatureValidationFailed"
	firstDelay         = 10 * time.Second
	maxDelay           = 5 * time.Minute
	invalidNameMessage = "Failed to apply default image tag %q: couldn't parse image name %q: %v"
)

// Error is why an image isn't there.
type Error struct {
	Reason  string
	Message string
	RetryAt time.Time // zero: when the pod changes
}

func (e *Error) Error() string { return e.Reason + ": " + e.Message }

// Image is an image that is on the node.
type Image struct {
	Ref  string // for the runtime
	UID  *int64 // the user that the image names by number
	User string // or by name
}

// Request asks for an image.
type Request struct {
	Key     string // whose back-off it is: pod and image
	Image   string
	Policy  corev1.PullPolicy
	Secrets []*corev1.Secret
	// Logins asks the node's credential providers for logins of an image, which is named without tag and digest; they are tried after those of the secrets.
	// Nil: there are none.
	Logins  func(ctx context.Context, image string) []imagelogin.Login
	Sandbox *runtimeapi.PodSandboxConfig
	Handler string // runtime handler
	// Event records an event about the container.
	Event func(eventType, reason, message string)
}

// Puller pulls images. Its methods are safe for concurrent use.
type Puller struct {
	images  cri.ImageManagerService
	clock   clock.Clock
	backoff *backoff.Backoff
	slots   chan struct{}
	records *Records // nil: what is there is for everybody

	mu     sync.Mutex
	last   map[string]string // the last error by key, for the back-off's message
	flying map[string]*flight
}

type flight struct {
	done chan struct{}
	ref  string
	used int // the place of the credential that was good, -1 if none was needed
	err  error
}

// New makes a Puller that pulls at most parallel images at a time. Without records, images that are on the node are for everybody.
func New(images cri.ImageManagerService, c clock.Clock, parallel int, records *Records) *Puller {
	return &Puller{
		records: records,
		images:  images, clock: c, backoff: backoff.New(firstDelay, maxDelay), slots: make(chan struct{}, max(parallel, 1)),
		last: map[string]string{}, flying: map[string]*flight{},
	}
}

// Name adds the tag "latest" where an image names neither tag nor digest.
func Name(image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		//lint:ignore ST1005 people know this text: it is that of upstream's event
		return "", fmt.Errorf(invalidNameMessage, image, image, err)
	}
	if reference.IsNameOnly(named) {
		return image + ":latest", nil
	}
	return image, nil
}

// Ensure makes the image be on the node. It returns when it is, or a reason to wait.
func (p *Puller) Ensure(ctx context.Context, r Request) (Image, *Error) {
	name, err := Name(r.Image)
	if err != nil {
		r.Event(corev1.EventTypeWarning, "InspectFailed", err.Error())
		return Image{}, &Error{Reason: ReasonInvalidName, Message: err.Error()}
	}
	if ask := r.Logins; ask != nil {
		var once sync.Once
		var logins []imagelogin.Login
		r.Logins = func(ctx context.Context, image string) []imagelogin.Login {
			once.Do(func() { logins = ask(ctx, image) })
			return logins
		}
	}
	have, err := p.find(ctx, name, r.Handler)
	if err != nil {
		message := fmt.Sprintf("Failed to inspect image %q: %v", name, plain(err))
		r.Event(corev1.EventTypeWarning, "InspectFailed", message)
		return Image{}, &Error{Reason: ReasonInspect, Message: message, RetryAt: p.clock.Now().Add(firstDelay)}
	}
	switch {
	case r.Policy == corev1.PullNever && have == nil:
		return Image{}, p.never(r)
	case have != nil && r.Policy != corev1.PullAlways && !p.mustPull(ctx, r, have):
		r.Event(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", r.Image))
		return imageOf(have), nil
	case r.Policy == corev1.PullNever: // it is there, for others
		return Image{}, p.never(r)
	}

	began := p.clock.Now()
	if retry, ok := p.backoff.At(r.Key); ok && began.Before(retry) {
		return Image{}, p.backOff(r, retry)
	}
	r.Event(corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", r.Image))
	if p.records != nil {
		if err := p.records.begin(r.Image); err != nil {
			return Image{}, p.failed(r, fmt.Errorf("failed to record image pull intent: %w", err))
		}
	}
	ref, used, pulling, err := p.pull(ctx, name, r)
	if err != nil {
		p.pulled(r, "", source{})
		if ctx.Err() != nil {
			return Image{}, &Error{Reason: ReasonPull, Message: ctx.Err().Error()}
		}
		return Image{}, p.failed(r, err)
	}
	p.succeeded(r.Key)
	got, err := p.lookup(ctx, ref, r.Handler)
	if err != nil || got == nil {
		got = &runtimeapi.Image{Id: ref}
	}
	p.pulled(r, got.Id, used)
	r.Event(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.",
		r.Image, pulling.Truncate(time.Millisecond), p.clock.Since(began).Truncate(time.Millisecond), got.Size))
	image := imageOf(got)
	image.Ref = ref
	return image, nil
}

// find looks for an image, at the first time after what is recorded of others was put in order.
func (p *Puller) find(ctx context.Context, name, handler string) (*runtimeapi.Image, error) {
	if p.records != nil {
		if err := p.records.recover(ctx, func(ctx context.Context, image string) (string, error) {
			i, err := p.lookup(ctx, image, "")
			return i.GetId(), err
		}); err != nil {
			return nil, err
		}
	}
	return p.lookup(ctx, name, handler)
}

// never is the refusal of an image that isn't there, or not for this pod, and that must not be pulled.
func (p *Puller) never(r Request) *Error {
	message := fmt.Sprintf("Container image %q is not present with pull policy of Never", r.Image)
	r.Event(corev1.EventTypeWarning, ReasonNeverPull, message)
	return &Error{Reason: ReasonNeverPull, Message: message, RetryAt: p.clock.Now().Add(firstDelay)}
}

// mustPull says that a pod has to show that an image that is on the node is for it.
func (p *Puller) mustPull(ctx context.Context, r Request, have *runtimeapi.Image) bool {
	if p.records == nil {
		return false
	}
	named, err := reference.ParseNormalizedNamed(r.Image)
	if err != nil {
		return true
	}
	var secrets []secretID
	for _, c := range matching(credentials(r.Secrets), named.Name()) {
		secrets = append(secrets, *c.from.secret)
	}
	if !p.records.mustPull(r.Image, have.Id, secrets) {
		return false
	}
	// Providers are programs: they are asked only if the answer can matter.
	accounts := p.records.accounts(r.Image, have.Id)
	return r.Logins == nil || len(accounts) == 0 || !slices.ContainsFunc(r.Logins(ctx, named.Name()), func(l imagelogin.Login) bool {
		return l.Account != nil && slices.Contains(accounts, *l.Account)
	})
}

// pulled records the end of a pull. What cannot be written costs another pull.
func (p *Puller) pulled(r Request, ref string, used source) {
	if p.records == nil {
		return
	}
	if err := p.records.end(r.Image, ref, used); err != nil {
		p.records.log.Warn("who may use an image could not be written", "image", r.Image, "err", err)
	}
}

func (p *Puller) lookup(ctx context.Context, image, handler string) (*runtimeapi.Image, error) {
	resp, err := p.images.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: image, RuntimeHandler: handler}, false)
	if err != nil {
		return nil, err
	}
	return resp.GetImage(), nil
}

func imageOf(i *runtimeapi.Image) Image {
	out := Image{Ref: i.Id, User: i.Username}
	if i.Uid != nil {
		uid := i.Uid.Value
		out.UID = &uid
	}
	return out
}

// pull pulls, or waits for somebody who pulls the same image with the same credentials. It says where those that were good came from.
func (p *Puller) pull(ctx context.Context, name string, r Request) (ref string, used source, took time.Duration, err error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", source{}, 0, err
	}
	auths := matching(credentials(r.Secrets), named.Name())
	if r.Logins != nil {
		for _, l := range r.Logins(ctx, named.Name()) {
			auths = append(auths, credential{auth: &runtimeapi.AuthConfig{Username: l.Username, Password: l.Password}, from: source{account: l.Account}})
		}
	}
	key := name
	for _, c := range auths {
		a := c.auth
		key += "\x00" + a.ServerAddress + "\x00" + a.Username + "\x00" + a.Password + a.IdentityToken + a.RegistryToken
	}
	whose := func(f *flight) source {
		if f.err != nil || f.used < 0 {
			return source{}
		}
		return auths[f.used].from // who shares a pull has the same credentials in the same order, from sources of its own
	}
	for {
		p.mu.Lock()
		f := p.flying[key]
		if f == nil {
			f = &flight{done: make(chan struct{})}
			p.flying[key] = f
			p.mu.Unlock()
			began := p.clock.Now()
			f.ref, f.used, f.err = p.pullNow(ctx, name, auths, r)
			p.mu.Lock()
			delete(p.flying, key)
			p.mu.Unlock()
			close(f.done)
			return f.ref, whose(f), p.clock.Since(began), f.err
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return "", source{}, 0, ctx.Err()
		case <-f.done:
		}
		if errors.Is(f.err, context.Canceled) && ctx.Err() == nil {
			continue // the one who pulled gave up for reasons of its own
		}
		return f.ref, whose(f), 0, f.err
	}
}

func (p *Puller) pullNow(ctx context.Context, name string, auths []credential, r Request) (ref string, used int, err error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return "", 0, ctx.Err()
	}
	spec := &runtimeapi.ImageSpec{Image: name, RuntimeHandler: r.Handler, UserSpecifiedImage: r.Image}
	if len(auths) == 0 {
		ref, err := p.images.PullImage(ctx, spec, nil, r.Sandbox)
		if err != nil && ctx.Err() != nil {
			err = ctx.Err()
		}
		return ref, -1, err
	}
	var errs []error
	for i, a := range auths {
		ref, err := p.images.PullImage(ctx, spec, a.auth, r.Sandbox)
		if err == nil {
			return ref, i, nil
		}
		if ctx.Err() != nil {
			return "", 0, ctx.Err()
		}
		errs = append(errs, err)
	}
	return "", 0, errors.Join(errs...)
}

func (p *Puller) succeeded(key string) {
	p.backoff.Forget(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.last, key)
}

// Forget drops what is remembered of keys that begin with the prefix: the pod is gone.
func (p *Puller) Forget(prefix string) {
	p.backoff.ForgetAll(prefix)
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.last, func(key, _ string) bool { return strings.HasPrefix(key, prefix) })
}

func (p *Puller) failed(r Request, err error) *Error {
	now := p.clock.Now()
	p.backoff.Next(r.Key, now, now)
	reason, text := ReasonPull, plain(err)
	for _, special := range []string{reasonUnavailable, reasonSignature} {
		if rest, ok := strings.CutPrefix(text, special+":"); ok {
			reason, text = special, strings.TrimSpace(rest)
		}
	}
	p.mu.Lock()
	p.last[r.Key] = reason + ": " + text
	p.mu.Unlock()
	r.Event(corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", r.Image, text))
	retry, _ := p.backoff.At(r.Key)
	return &Error{Reason: reason, Message: text, RetryAt: retry}
}

// backOff is the state of an image whose pull failed and isn't tried again yet.
func (p *Puller) backOff(r Request, retry time.Time) *Error {
	p.mu.Lock()
	last := p.last[r.Key]
	p.mu.Unlock()
	message := fmt.Sprintf("Back-off pulling image %q", r.Image)
	r.Event(corev1.EventTypeNormal, "BackOff", message)
	if last != "" {
		message += ": " + last
	}
	return &Error{Reason: ReasonBackOff, Message: message, RetryAt: retry}
}

// plain is an error's text without gRPC's frame.
func plain(err error) string {
	if s, ok := grpcstatus.FromError(err); ok && s.Message() != "" {
		return fmt.Sprintf("rpc error: code = %s desc = %s", s.Code(), s.Message())
	}
	return err.Error()
}
