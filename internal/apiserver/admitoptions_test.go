package apiserver

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/celox/celox/internal/apiserver/admission"
)

// optionsSeen notes which options admission is shown with each write.
type optionsSeen struct{ kinds []string }

func (o *optionsSeen) Validate(_ context.Context, a *admission.Attributes) error {
	o.kinds = append(o.kinds, fmt.Sprintf("%s %T", a.Operation, a.Options))
	return nil
}

// TestAdmissionOptions: a patch is an update to admission, or a creation.
func TestAdmissionOptions(t *testing.T) {
	seen := &optionsSeen{}
	h := newServer(t, func(c *Config) { c.Admission = admission.Chain{seen} }).Handler()
	const path = "/api/v1/namespaces/default/configmaps"
	body := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`
	want(t, h, 201, "POST", path, body)
	want(t, h, 200, "PATCH", path+"/a", `{"data":{"x":"y"}}`, "Content-Type", "application/merge-patch+json")
	want(t, h, 201, "PATCH", path+"/b?fieldManager=m", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}`, "Content-Type", "application/apply-patch+yaml")
	want(t, h, 200, "PUT", path+"/a", body)
	if got, all := seen.kinds, []string{"CREATE *v1.CreateOptions", "UPDATE *v1.UpdateOptions", "CREATE *v1.CreateOptions", "UPDATE *v1.UpdateOptions"}; !slices.Equal(got, all) {
		t.Errorf("got %v", got)
	}
}
