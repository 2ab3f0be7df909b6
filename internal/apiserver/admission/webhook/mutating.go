package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/admission/live"
	"github.com/celox/celox/internal/apiserver/admission/match"
)

// Mutating calls the webhooks of MutatingWebhookConfigurations.
type Mutating struct {
	cfg  Config
	view *live.View[configured]
}

// NewMutating returns the plugin.
func NewMutating(cfg Config) *Mutating {
	return &Mutating{cfg: cfg, view: view(cfg.Configurations, mutatingHooks)}
}

// memory is what the second run of the mutators knows of the first.
type memory struct {
	// invoked are webhooks that want to be called again if something changes after them; again are those that will be.
	invoked, again map[string]bool
	// left is the object as the webhooks left it.
	left runtime.Object
}

func (m *memory) changed() {
	for id := range m.invoked {
		m.again[id] = true
	}
	clear(m.invoked)
}

// PluginName is what upstream calls the plugin.
func (*Mutating) PluginName() string { return "MutatingAdmissionWebhook" }

// Admit implements admission.Mutator.
func (p *Mutating) Admit(ctx context.Context, a *admission.Attributes) error {
	now, err := p.view.Get(ctx)
	if err != nil {
		return err
	}
	hooks := now.all.Candidates(a)
	if len(hooks) == 0 || match.ExemptFromWebhooks(a) {
		return nil
	}
	m, _ := a.Recall(p).(*memory)
	if m == nil {
		m = &memory{invoked: map[string]bool{}, again: map[string]bool{}}
		a.Remember(p, m)
	}
	if a.SecondRun() && !apiequality.Semantic.DeepEqual(m.left, a.Object) {
		m.changed()
	}
	for i, h := range hooks {
		if a.SecondRun() && !m.again[h.id] {
			continue
		}
		d, ok, err := p.cfg.concerned(ctx, h, a, mutatingSort)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		began := time.Now()
		changed, err := p.invoke(ctx, h, a, d, i)
		took := time.Since(began)
		h.count(a, mutatingSort, err, took)
		if a.Waited != nil {
			a.Waited(took)
		}
		if changed {
			m.changed()
			a.RunAgain()
		}
		if h.reinvocation {
			m.invoked[h.id] = true
		}
		switch {
		case err == nil:
		case !h.excused(err):
			return shown(err)
		case ctx.Err() != nil:
			return errTooLate
		}
	}
	if len(m.invoked)+len(m.again) > 0 && a.Object != nil && !a.SecondRun() {
		m.left = a.Object.DeepCopyObject()
	}
	return nil
}

// invoke calls one webhook and makes the object what it says.
func (p *Mutating) invoke(ctx context.Context, h *hook, a *admission.Attributes, d admission.Door, index int) (changed bool, err error) {
	round := 0
	if a.SecondRun() {
		round = 1
	}
	at := fmt.Sprintf("round_%d_index_%d", round, index)
	defer func() {
		if h.excused(err) && !errors.Is(err, context.Canceled) {
			a.Note("failed-open.mutation.webhook.admission.k8s.io/"+at, h.name)
		}
		if a.Annotate != nil {
			a.Note("mutation.webhook.admission.k8s.io/"+at, note(map[string]any{"configuration": h.configuration, "webhook": h.name, "mutated": changed}))
		}
	}()
	e, err := encode(a, d.Kind)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	got, err := p.cfg.call(ctx, h, a, d, e, true)
	if err != nil {
		return false, err
	}
	if err := h.told(a, got); err != nil {
		return false, err
	}
	if len(got.patch) == 0 {
		return false, nil
	}
	patch, err := jsonpatch.DecodePatch(got.patch)
	if err != nil {
		return false, &callError{h.name, fmt.Errorf("received undecodable patch in webhook response: %w", err), http.StatusServiceUnavailable}
	}
	if len(patch) == 0 {
		return false, nil
	}
	if a.Object == nil {
		return false, apierrors.NewInternalError(fmt.Errorf("admission webhook %q attempted to modify the object, which is not supported for this operation", h.name))
	}
	if got.patchType != admissionv1.PatchTypeJSONPatch {
		return false, &callError{h.name, fmt.Errorf("unsupported patch type %q", got.patchType), http.StatusBadRequest}
	}
	if changed, err = apply(a, d, e.object, patch); err != nil {
		return false, apierrors.NewInternalError(err)
	}
	if a.Annotate != nil {
		a.Note("patch.webhook.admission.k8s.io/"+at, note(map[string]any{"configuration": h.configuration, "webhook": h.name, "patch": patch, "patchType": got.patchType}))
	}
	return changed, nil
}

// apply makes the object what a patch of its JSON form makes of it.
func apply(a *admission.Attributes, d admission.Door, object []byte, patch jsonpatch.Patch) (changed bool, err error) {
	if a.Versions == nil {
		return false, fmt.Errorf("nobody can read a %s", d.Kind)
	}
	data, err := patch.Apply(object)
	if err != nil {
		return false, err
	}
	obj, err := a.Versions.Read(data, d.Kind)
	if err != nil {
		return false, err
	}
	if apiequality.Semantic.DeepEqual(obj, a.Object) {
		return false, nil
	}
	return true, a.Replace(obj)
}

// note is a value of an audit annotation.
func note(v map[string]any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}
