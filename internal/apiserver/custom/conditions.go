package custom

import (
	"crypto/x509"
	"encoding/pem"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Observe returns crd with the status that it should have, given the names that the other definitions of its group have; crd
// itself if that is the status which it has.
func Observe(crd *CRD, names *Names, now time.Time) *CRD {
	if settled(crd) {
		return crd
	}
	// The specification is large, and nobody changes it here.
	next := &CRD{TypeMeta: crd.TypeMeta, Spec: crd.Spec, Status: *crd.Status.DeepCopy()}
	crd.ObjectMeta.DeepCopyInto(&next.ObjectMeta)
	if !equality.Semantic.DeepEqual(crd.Spec.Names, crd.Status.AcceptedNames) {
		accepted, judged, established := names.Judge(crd)
		next.Status.AcceptedNames = accepted
		setCondition(next, judged, now)
		setCondition(next, established, now)
	}
	if isTrue(next, apiextensionsv1.NamesAccepted) && !isTrue(crd, apiextensionsv1.Established) {
		if badBundle(next) {
			setCondition(next, apiextensionsv1.CustomResourceDefinitionCondition{
				Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse, Reason: "InvalidCABundle",
				Message: "The conversion webhook CABundle is invalid",
			}, now)
		} else {
			setCondition(next, apiextensionsv1.CustomResourceDefinitionCondition{
				Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue, Reason: "InitialNamesAccepted",
				Message: "the initial names have been accepted",
			}, now)
		}
	}
	if c := violations(crd); c != nil {
		setCondition(next, *c, now)
	} else {
		apihelpers.RemoveCRDCondition(next, apiextensionsv1.NonStructuralSchema)
	}
	if c := approval(crd); c != nil {
		setCondition(next, *c, now)
	}
	if equality.Semantic.DeepEqual(&crd.Status, &next.Status) {
		return crd
	}
	return next
}

// settled says whether a definition is as nearly all are nearly always: serving under the names that it asks for, with nothing to remark.
func settled(crd *CRD) bool {
	return isTrue(crd, apiextensionsv1.NamesAccepted) && isTrue(crd, apiextensionsv1.Established) && sameNames(&crd.Spec.Names, &crd.Status.AcceptedNames) &&
		!crd.Spec.PreserveUnknownFields && condition(crd, apiextensionsv1.NonStructuralSchema) == nil && !apihelpers.IsProtectedCommunityGroup(crd.Spec.Group)
}

// setCondition sets a condition; its time is when its status changed.
func setCondition(crd *CRD, c apiextensionsv1.CustomResourceDefinitionCondition, now time.Time) {
	at := metav1.NewTime(now.UTC().Truncate(time.Second))
	old := condition(crd, c.Type)
	if old == nil {
		c.LastTransitionTime = at
		crd.Status.Conditions = append(crd.Status.Conditions, c)
		return
	}
	if old.Status != c.Status {
		old.LastTransitionTime = at
	}
	old.Status, old.Reason, old.Message = c.Status, c.Reason, c.Message
}

func badBundle(crd *CRD) bool {
	c := crd.Spec.Conversion
	if c == nil || c.Webhook == nil || c.Webhook.ClientConfig == nil {
		return false
	}
	rest := c.Webhook.ClientConfig.CABundle
	if len(rest) == 0 {
		return false
	}
	found := false
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return !found
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return true
		}
		found = true
	}
}

// violations tells what keeps the schemas from being structural (KEP-1111); nil if nothing does.
func violations(crd *CRD) *apiextensionsv1.CustomResourceDefinitionCondition {
	if condition(crd, apiextensionsv1.NonStructuralSchema) == nil && !crd.Spec.PreserveUnknownFields {
		// Validation lets no such schema in; only definitions of another time have one.
		return nil
	}
	c := &apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.NonStructuralSchema, Status: apiextensionsv1.ConditionUnknown}
	var errs field.ErrorList
	if crd.Spec.PreserveUnknownFields {
		errs = append(errs, field.Invalid(field.NewPath("spec", "preserveUnknownFields"), true, "must be false"))
	}
	for i := range crd.Spec.Versions {
		v := &crd.Spec.Versions[i]
		if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			continue
		}
		internal := &apiextensions.CustomResourceValidation{}
		if apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(v.Schema, internal, nil) != nil {
			continue
		}
		s, err := structuralschema.NewStructural(internal.OpenAPIV3Schema)
		if err != nil {
			c.Reason, c.Message = "StructuralError", "failed to check validation schema for version "+v.Name+": "+err.Error()
			return c
		}
		errs = append(errs, structuralschema.ValidateStructural(field.NewPath("spec", "versions").Index(i).Child("schema", "openAPIV3Schema"), s)...)
	}
	if len(errs) == 0 {
		return nil
	}
	c.Status, c.Reason, c.Message = apiextensionsv1.ConditionTrue, "Violations", errs.ToAggregate().Error()
	return c
}

// approval tells how a definition in one of the community's groups has been approved (KEP-1111); nil for other groups.
func approval(crd *CRD) *apiextensionsv1.CustomResourceDefinitionCondition {
	if !apihelpers.IsProtectedCommunityGroup(crd.Spec.Group) {
		return nil
	}
	state, why := apihelpers.GetAPIApprovalState(crd.Annotations)
	c := &apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.KubernetesAPIApprovalPolicyConformant, Status: apiextensionsv1.ConditionFalse, Message: why,
	}
	switch state {
	case apihelpers.APIApprovalInvalid:
		c.Reason = "InvalidAnnotation"
	case apihelpers.APIApprovalMissing:
		c.Reason = "MissingAnnotation"
	case apihelpers.APIApprovalBypassed:
		c.Reason = "UnapprovedAnnotation"
	case apihelpers.APIApproved:
		c.Status, c.Reason = apiextensionsv1.ConditionTrue, "ApprovedAnnotation"
	default:
		c.Status, c.Reason = apiextensionsv1.ConditionUnknown, "UnknownAnnotation"
	}
	return c
}

// BeginDeletion returns a definition that is to be deleted as upstream keeps it until its objects are gone.
func BeginDeletion(crd *CRD, now time.Time) *CRD {
	next := crd.DeepCopy()
	if next.DeletionTimestamp == nil {
		t := metav1.NewTime(now.UTC().Truncate(time.Second))
		next.DeletionTimestamp = &t
	}
	if !apihelpers.CRDHasFinalizer(next, apiextensionsv1.CustomResourceCleanupFinalizer) {
		next.Finalizers = append(next.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer)
	}
	setCondition(next, apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue, Reason: "InstanceDeletionPending",
		Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
	}, now)
	return next
}
