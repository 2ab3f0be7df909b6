package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/apiserver/request"
)

// Certificates sees to it that only those approve and sign certificate requests who may do so for the signer that they name, and
// that nobody asks for a client certificate of system:masters. It also notes in a new request who made it.
type Certificates struct{ authorizer request.Authorizer }

// PluginName is the first of the three that upstream has instead.
func (*Certificates) PluginName() string { return "CertificateApproval" }

// NewCertificates returns the plugin.
func NewCertificates(authorizer request.Authorizer) *Certificates {
	return &Certificates{authorizer: authorizer}
}

// Admit writes into a new request who made it; what the client says of that does not count.
func (p *Certificates) Admit(_ context.Context, a *Attributes) error {
	csr, ok := a.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || a.Operation != Create || a.Subresource != "" || a.User == nil {
		return nil
	}
	csr.Spec.Username, csr.Spec.UID = a.User.GetName(), a.User.GetUID()
	csr.Spec.Groups = slices.Clone(a.User.GetGroups())
	csr.Spec.Extra = nil
	for k, v := range a.User.GetExtra() {
		if csr.Spec.Extra == nil {
			csr.Spec.Extra = map[string]certificatesv1.ExtraValue{}
		}
		csr.Spec.Extra[k] = slices.Clone(v)
	}
	return nil
}

// Validate looks at new requests, approvals and signatures.
func (p *Certificates) Validate(ctx context.Context, a *Attributes) error {
	if a.Resource.Resource != "certificatesigningrequests" || a.Resource.Group != certificatesv1.GroupName {
		return nil
	}
	csr, ok := a.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return nil
	}
	old, _ := a.OldObject.(*certificatesv1.CertificateSigningRequest)
	switch {
	case a.Operation == Create && a.Subresource == "":
		if csr.Spec.SignerName == certificatesv1.KubeAPIServerClientSignerName && asksForMasters(csr.Spec.Request) {
			return forbid(a, fmt.Errorf("use of %s signer with %s group is not allowed", csr.Spec.SignerName, user.SystemPrivilegedGroup))
		}
	case a.Operation == Update && a.Subresource == "approval" && old != nil:
		return p.mayUse(ctx, a, "approve", old.Spec.SignerName)
	case a.Operation == Update && a.Subresource == "status" && old != nil:
		if !slices.Equal(old.Status.Certificate, csr.Status.Certificate) || !slices.EqualFunc(failures(old), failures(csr), sameCondition) {
			return p.mayUse(ctx, a, "sign", old.Spec.SignerName)
		}
	}
	return nil
}

func failures(csr *certificatesv1.CertificateSigningRequest) []certificatesv1.CertificateSigningRequestCondition {
	return slices.DeleteFunc(slices.Clone(csr.Status.Conditions), func(c certificatesv1.CertificateSigningRequestCondition) bool {
		return c.Type != certificatesv1.CertificateFailed
	})
}

func sameCondition(x, y certificatesv1.CertificateSigningRequestCondition) bool {
	return x.Type == y.Type && x.Status == y.Status && x.Reason == y.Reason && x.Message == y.Message
}

// mayUse asks for the signer itself, and then for all signers of its domain.
func (p *Certificates) mayUse(ctx context.Context, a *Attributes, verb, signer string) error {
	ok, err := mayActFor(ctx, p.authorizer, a, verb, signer)
	if err != nil || ok {
		return err
	}
	return forbid(a, fmt.Errorf("user not permitted to %s requests with signerName %q", verb, signer))
}

// mayActFor says whether the user of a may do something for a signer, by its own name or with all of its domain.
func mayActFor(ctx context.Context, z request.Authorizer, a *Attributes, verb, signer string) (bool, error) {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		d, _, err := z.Authorize(ctx, request.Attributes{
			User: a.User, Verb: verb, Group: certificatesv1.GroupName, Version: "*", Resource: "signers", Name: name, ResourceRequest: true,
		})
		if err != nil {
			return false, err
		}
		if d == request.Allow {
			return true, nil
		}
	}
	return false, nil
}

func asksForMasters(request []byte) bool {
	block, _ := pem.Decode(request)
	if block == nil {
		return false // validation refuses it
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	return err == nil && slices.Contains(csr.Subject.Organization, user.SystemPrivilegedGroup)
}
