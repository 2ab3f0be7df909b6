package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

const (
	requestBlock     = "CERTIFICATE REQUEST"
	certificateBlock = "CERTIFICATE"
	// minSeconds is the shortest life that may be asked for.
	minSeconds = 600
	// legacySigner meant "whoever feels like it" before v1.
	legacySigner = "kubernetes.io/legacy-unknown"
)

func certificateSigningRequest() *api.Kind {
	// The columns are described as they were in v1beta1.
	spec := certificatesv1beta1.CertificateSigningRequestSpec{}.SwaggerDoc()
	return &api.Kind{
		Group:      "certificates.k8s.io",
		Kind:       "CertificateSigningRequest",
		Resource:   "certificatesigningrequests",
		Singular:   "certificatesigningrequest",
		ShortNames: []string{"csr"},
		Prefix:     "certificatesigningrequests",
		Versions:   []api.Version{api.NewVersion[certificatesv1.CertificateSigningRequest, certificatesv1.CertificateSigningRequestList]("v1")},
		Hub:        "v1",
		Subresources: []api.Subresource{
			{
				Name: "approval", Verbs: api.StatusVerbs(), NoTable: true,
				PrepareForUpdate: api.OnUpdate(prepareApproval), ValidateUpdate: api.CheckUpdate(validateApproval),
			},
			api.Status(),
		},
		// Who asks for what is said by the server, so nobody owns it.
		Resets: map[string][]string{"": {"spec", "status"}, "status": {"spec", "status.conditions"}, "approval": {"spec", "status.certificate"}},
		PrepareForCreate: api.On(func(r *certificatesv1.CertificateSigningRequest) {
			r.Status = certificatesv1.CertificateSigningRequestStatus{}
		}),
		// What was asked, and by whom, never changes.
		PrepareForUpdate: api.OnUpdate(func(r, old *certificatesv1.CertificateSigningRequest) {
			r.Spec, r.Status = old.Spec, old.Status
		}),
		PrepareForStatusUpdate: api.OnUpdate(func(r, old *certificatesv1.CertificateSigningRequest) {
			r.Spec = old.Spec
			keepDecisions(r, old)
			stampConditions(r, old)
		}),
		ValidateName: func(string, bool) []string { return nil }, // whatever all kinds may be called
		Validate:     api.Check(validateRequest),
		ValidateUpdate: api.CheckUpdate(func(r, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
			return validateRequestUpdate(r, old, decisions())
		}),
		ValidateStatusUpdate: api.CheckUpdate(func(r, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
			return validateRequestUpdate(r, old, decisions())
		}),
		AllowUnconditionalUpdate: true,
		FieldNames:               []string{"spec.signerName"},
		Fields: func(o api.Object) fields.Set {
			return fields.Set{"spec.signerName": o.(*certificatesv1.CertificateSigningRequest).Spec.SignerName}
		},
		Columns: api.Columns(
			table.Name(),
			table.AgeColumn(),
			table.Column("SignerName", table.String, spec["signerName"]),
			table.Column("Requestor", table.String, spec["request"]),
			table.Column("RequestedDuration", table.String, spec["expirationSeconds"]),
			table.Column("Condition", table.String, certificatesv1beta1.CertificateSigningRequestStatus{}.SwaggerDoc()["conditions"]),
		),
		Row: api.Row(func(r *certificatesv1.CertificateSigningRequest, now time.Time) []any {
			signer, life := table.None, table.None
			if r.Spec.SignerName != "" {
				signer = r.Spec.SignerName
			}
			if r.Spec.ExpirationSeconds != nil {
				life = duration.HumanDuration(time.Duration(*r.Spec.ExpirationSeconds) * time.Second)
			}
			return []any{r.Name, table.Age(r, now), signer, r.Spec.Username, life, condition(&r.Status)}
		}),
	}
}

// condition sums a status up: "Pending", "Approved,Issued", "Denied", "Approved,Failed".
func condition(s *certificatesv1.CertificateSigningRequestStatus) string {
	var approved, denied, failed bool
	for _, c := range s.Conditions {
		switch c.Type {
		case certificatesv1.CertificateApproved:
			approved = true
		case certificatesv1.CertificateDenied:
			denied = true
		case certificatesv1.CertificateFailed:
			failed = true
		}
	}
	out := "Pending"
	switch {
	case denied:
		out = "Denied"
	case approved:
		out = "Approved"
	}
	if failed {
		out += ",Failed"
	}
	if len(s.Certificate) > 0 {
		out += ",Issued"
	}
	return out
}

// decisions are the conditions that only the "approval" subresource may add.
func decisions() []certificatesv1.RequestConditionType {
	return []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied}
}

// prepareApproval leaves what the "approval" subresource may change: the conditions.
func prepareApproval(r, old *certificatesv1.CertificateSigningRequest) {
	r.Spec, r.Status.Certificate = old.Spec, old.Status.Certificate
	stampConditions(r, old)
}

// validateApproval checks what prepareApproval left.
func validateApproval(r, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	return validateRequestUpdate(r, old, nil)
}

// keepDecisions puts decisions back as they were. Where some were added or taken away they stay: validation complains.
func keepDecisions(r, old *certificatesv1.CertificateSigningRequest) {
	for _, t := range decisions() {
		now, before := positions(r, t), positions(old, t)
		if len(now) != len(before) {
			continue
		}
		for i := range now {
			r.Status.Conditions[now[i]] = old.Status.Conditions[before[i]]
		}
	}
}

// positions says where conditions of a type are.
func positions(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) []int {
	var out []int
	for i := range r.Status.Conditions {
		if r.Status.Conditions[i].Type == t {
			out = append(out, i)
		}
	}
	return out
}

// stampConditions fills in the times of conditions that came without.
func stampConditions(r, old *certificatesv1.CertificateSigningRequest) {
	now := metav1.Now().Rfc3339Copy()
	for i := range r.Status.Conditions {
		c := &r.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, was := range old.Status.Conditions {
			if was.Type == c.Type && was.Status == c.Status && !was.LastTransitionTime.IsZero() {
				c.LastTransitionTime = was.LastTransitionTime
				break
			}
		}
	}
}

func validateRequest(r *certificatesv1.CertificateSigningRequest) field.ErrorList {
	return validateWith(r, tolerated{})
}

// tolerated are faults that an update may leave as they are, because the stored object has them already.
type tolerated struct {
	unknownUsages, repeatedUsages         bool
	legacySigner                          bool
	contradiction, repeatedTypes, noTypes bool
	anyCertificate                        bool
}

// tolerate says what an update of old to r may leave.
func tolerate(r, old *certificatesv1.CertificateSigningRequest) tolerated {
	t := tolerated{legacySigner: old.Spec.SignerName == legacySigner}
	for i, u := range old.Spec.Usages {
		t.unknownUsages = t.unknownUsages || !slices.Contains(usages(), u)
		t.repeatedUsages = t.repeatedUsages || slices.Contains(old.Spec.Usages[:i], u)
	}
	seen := map[certificatesv1.RequestConditionType]bool{}
	for _, c := range old.Status.Conditions {
		t.noTypes = t.noTypes || c.Type == ""
		t.repeatedTypes = t.repeatedTypes || seen[c.Type]
		seen[c.Type] = true
	}
	t.contradiction = seen[certificatesv1.CertificateApproved] && seen[certificatesv1.CertificateDenied]
	was := old.Status.Certificate
	t.anyCertificate = string(was) == string(r.Status.Certificate) || len(was) > 0 && parseCertificates(was) != nil
	return t
}

func validateWith(r *certificatesv1.CertificateSigningRequest, t tolerated) field.ErrorList {
	p, s := field.NewPath("spec"), &r.Spec
	var errs field.ErrorList
	if err := parseRequest(s.Request); err != nil {
		errs = append(errs, field.Invalid(p.Child("request"), s.Request, err.Error()))
	}
	if len(s.Usages) == 0 {
		errs = append(errs, field.Required(p.Child("usages"), ""))
	}
	errs = append(errs, validateUsages(s.Usages, t, p.Child("usages"))...)
	if s.SignerName == legacySigner && !t.legacySigner {
		errs = append(errs, field.Invalid(p.Child("signerName"), s.SignerName, "the legacy signerName is not allowed via this API version"))
	} else {
		errs = append(errs, check.SignerName(s.SignerName, p.Child("signerName"))...)
	}
	if n := s.ExpirationSeconds; n != nil && *n < minSeconds {
		errs = append(errs, field.Invalid(p.Child("expirationSeconds"), *n, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	status := field.NewPath("status")
	errs = append(errs, validateConditions(r.Status.Conditions, t, status.Child("conditions"))...)
	if len(r.Status.Certificate) > 0 && !t.anyCertificate {
		if err := parseCertificates(r.Status.Certificate); err != nil {
			errs = append(errs, field.Invalid(status.Child("certificate"), "<certificate data>", err.Error()))
		}
	}
	return errs
}

func parseRequest(data []byte) error {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != requestBlock {
		return errors.New("PEM block type must be " + requestBlock)
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	return request.CheckSignature() // who asks has the key
}

// usages are all that a certificate may be asked for (RFC 5280, sections 4.2.1.3 and 4.2.1.12).
func usages() []certificatesv1.KeyUsage {
	return []certificatesv1.KeyUsage{
		certificatesv1.UsageAny, certificatesv1.UsageCertSign, certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning,
		certificatesv1.UsageContentCommitment, certificatesv1.UsageCRLSign, certificatesv1.UsageDataEncipherment, certificatesv1.UsageDecipherOnly,
		certificatesv1.UsageDigitalSignature, certificatesv1.UsageEmailProtection, certificatesv1.UsageEncipherOnly, certificatesv1.UsageIPsecEndSystem,
		certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser, certificatesv1.UsageKeyAgreement, certificatesv1.UsageKeyEncipherment,
		certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC, certificatesv1.UsageOCSPSigning, certificatesv1.UsageSMIME,
		certificatesv1.UsageServerAuth, certificatesv1.UsageSigning, certificatesv1.UsageTimestamping,
	}
}

func validateUsages(list []certificatesv1.KeyUsage, t tolerated, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, u := range list {
		if !t.unknownUsages {
			errs = append(errs, check.OneOf(u, p.Index(i), usages()...)...)
		}
	}
	for i, u := range list {
		if !t.repeatedUsages && slices.Contains(list[:i], u) {
			errs = append(errs, field.Duplicate(p.Index(i), u))
		}
	}
	return errs
}

// validateRequestUpdate checks a change; guarded conditions may not be added at this door.
func validateRequestUpdate(r, old *certificatesv1.CertificateSigningRequest, guarded []certificatesv1.RequestConditionType) field.ErrorList {
	errs := validateWith(r, tolerate(r, old))
	p, s := field.NewPath("status"), &r.Status
	count := func(list []certificatesv1.CertificateSigningRequestCondition, t certificatesv1.RequestConditionType) int {
		n := 0
		for _, c := range list {
			if c.Type == t {
				n++
			}
		}
		return n
	}
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		if count(s.Conditions, t) < count(old.Status.Conditions, t) {
			errs = append(errs, field.Forbidden(p.Child("conditions"), fmt.Sprintf("updates may not remove a condition of type %q", t)))
		}
	}
	for _, t := range guarded {
		if count(s.Conditions, t) > count(old.Status.Conditions, t) {
			errs = append(errs, field.Forbidden(p.Child("conditions"), fmt.Sprintf("updates may not add a condition of type %q", t)))
		}
	}
	if len(old.Status.Certificate) > 0 && string(old.Status.Certificate) != string(s.Certificate) {
		errs = append(errs, field.Forbidden(p.Child("certificate"), "updates may not modify existing certificate content"))
	}
	return errs
}

func validateConditions(list []certificatesv1.CertificateSigningRequestCondition, t tolerated, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i, c := range list {
		at := p.Index(i)
		if c.Type == "" && !t.noTypes {
			errs = append(errs, field.Required(at.Child("type"), ""))
		}
		switch c.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			errs = append(errs, check.Enum(c.Status, at.Child("status"), corev1.ConditionTrue)...)
		default:
			errs = append(errs, check.Enum(c.Status, at.Child("status"), corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown)...)
		}
		if seen[c.Type] && !t.repeatedTypes {
			errs = append(errs, field.Duplicate(at.Child("type"), c.Type))
		}
		seen[c.Type] = true
	}
	if seen[certificatesv1.CertificateApproved] && seen[certificatesv1.CertificateDenied] && !t.contradiction {
		const yes, no = `conditions[{"type": "Approved"}]`, `conditions[{"type": "Denied"}]`
		errs = append(errs, check.Declared(field.ErrorList{field.Invalid(p, "{"+yes+", "+no+"}", "must specify at most one of: `"+yes+"`, `"+no+"`")})...)
	}
	return errs
}

// parseCertificates wants certificates in PEM and nothing else.
func parseCertificates(data []byte) error {
	found := false
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != certificateBlock {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) > 0 {
			return errors.New("no PEM block headers are permitted")
		}
		if _, err := x509.ParseCertificates(block.Bytes); err != nil {
			return err
		}
		found = true
	}
	if !found {
		return errors.New("must contain at least one CERTIFICATE PEM block")
	}
	return nil
}
