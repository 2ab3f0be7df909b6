package apiregistration

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

// Bounds of priorities, and the port that a service has if it does not say.
const (
	maxGroupPriority         = 20000
	maxVersionPriority       = 1000
	defaultPort        int32 = 443
)

func apiService() *api.Kind {
	return &api.Kind{
		Group:        "apiregistration.k8s.io",
		Kind:         "APIService",
		Resource:     "apiservices",
		Singular:     "apiservice",
		Categories:   []string{"api-extensions"},
		Prefix:       "apiregistration.k8s.io/apiservices",
		Versions:     []api.Version{api.NewVersion[apiregistrationv1.APIService, apiregistrationv1.APIServiceList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{api.TablelessStatus()},
		Resets:       map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
		StoredAsJSON: true,
		PrepareForCreate: api.On(func(a *apiregistrationv1.APIService) {
			a.Status = apiregistrationv1.APIServiceStatus{}
			if a.Spec.Service == nil {
				a.Status.Conditions = []apiregistrationv1.APIServiceCondition{{
					Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue, Reason: "Local",
					Message: "Local APIServices are always available", LastTransitionTime: a.CreationTimestamp,
				}}
			}
		}),
		PrepareForUpdate: api.OnUpdate(func(a, old *apiregistrationv1.APIService) { a.Status = old.Status }),
		PrepareForStatusUpdate: api.OnUpdate(func(a, old *apiregistrationv1.APIService) {
			a.Spec, a.Labels, a.Annotations = old.Spec, old.Labels, old.Annotations
			a.Finalizers, a.OwnerReferences = old.Finalizers, old.OwnerReferences
		}),
		Default: api.On(func(a *apiregistrationv1.APIService) {
			if s := a.Spec.Service; s != nil && s.Port == nil {
				port := defaultPort
				s.Port = &port
			}
		}),
		ValidateNameOf:       validateServiceName,
		Validate:             api.Check(validateAPIService),
		ValidateUpdate:       api.CheckUpdate(func(a, _ *apiregistrationv1.APIService) field.ErrorList { return validateAPIService(a) }),
		ValidateStatusUpdate: api.CheckUpdate(func(a, _ *apiregistrationv1.APIService) field.ErrorList { return validateStatus(a) }),
		Columns: api.Columns(
			table.Name(),
			table.Column("Service", table.String, "The reference to the service that hosts this API endpoint."),
			table.Column("Available", table.String, "Whether this service is available."),
			table.AgeColumn(),
		),
		Row: api.Row(func(a *apiregistrationv1.APIService, now time.Time) []any {
			service, status := "Local", "Unknown"
			if s := a.Spec.Service; s != nil {
				service = s.Namespace + "/" + s.Name
			}
			for _, c := range a.Status.Conditions {
				if c.Type != apiregistrationv1.Available {
					continue
				}
				status = string(c.Status)
				if c.Status != apiregistrationv1.ConditionTrue {
					status = fmt.Sprintf("%s (%s)", c.Status, c.Reason)
				}
			}
			return []any{a.Name, service, status, table.Age(a, now)}
		}),
	}
}

func validateStatus(a *apiregistrationv1.APIService) field.ErrorList {
	var errs field.ErrorList
	for i, c := range a.Status.Conditions {
		switch c.Status {
		case apiregistrationv1.ConditionTrue, apiregistrationv1.ConditionFalse, apiregistrationv1.ConditionUnknown:
		default:
			errs = append(errs, field.NotSupported(field.NewPath("status", "conditions").Index(i).Child("status"), c.Status,
				[]apiregistrationv1.ConditionStatus{apiregistrationv1.ConditionTrue, apiregistrationv1.ConditionFalse, apiregistrationv1.ConditionUnknown}))
		}
	}
	return errs
}

// validateServiceName wants the name, and also what it was to begin with, to be the version and group.
func validateServiceName(obj api.Object, name string, _ bool) []string {
	if told := path.IsValidPathSegmentName(name); len(told) > 0 {
		return told
	}
	s := obj.(*apiregistrationv1.APIService).Spec
	if want := s.Version + "." + s.Group; name != want {
		return []string{fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", want)}
	}
	return nil
}

func validateAPIService(a *apiregistrationv1.APIService) field.ErrorList {
	p, s := field.NewPath("spec"), &a.Spec
	var errs field.ErrorList
	// The core group has no name, and only its one version is served.
	if s.Group == "" {
		if s.Version != "v1" {
			errs = append(errs, field.Required(p.Child("group"), "only v1 may have an empty group and it better be legacy kube"))
		}
	} else {
		errs = append(errs, check.DNSSubdomain(s.Group, p.Child("group"))...)
	}
	errs = append(errs, check.Each(validation.IsDNS1035Label(s.Version), p.Child("version"), s.Version)...)
	if n := s.GroupPriorityMinimum; n <= 0 || n > maxGroupPriority {
		errs = append(errs, field.Invalid(p.Child("groupPriorityMinimum"), n, fmt.Sprintf("must be positive and less than %d", maxGroupPriority)))
	}
	if n := s.VersionPriority; n <= 0 || n > maxVersionPriority {
		errs = append(errs, field.Invalid(p.Child("versionPriority"), n, fmt.Sprintf("must be positive and less than %d", maxVersionPriority)))
	}
	skip := p.Child("insecureSkipTLSVerify")
	if s.Service == nil {
		if len(s.CABundle) > 0 {
			errs = append(errs, field.Invalid(p.Child("caBundle"), fmt.Sprintf("%d bytes", len(s.CABundle)), "local APIServices may not have a caBundle"))
		}
		if s.InsecureSkipTLSVerify {
			errs = append(errs, field.Invalid(skip, s.InsecureSkipTLSVerify, "local APIServices may not have insecureSkipTLSVerify"))
		}
		return errs
	}
	service := p.Child("service")
	if s.Service.Namespace == "" {
		errs = append(errs, field.Required(service.Child("namespace"), ""))
	}
	if s.Service.Name == "" {
		errs = append(errs, field.Required(service.Child("name"), ""))
	}
	if s.Service.Port != nil {
		for _, text := range validation.IsValidPortNum(int(*s.Service.Port)) {
			errs = append(errs, field.Invalid(service.Child("port"), *s.Service.Port, "port is not valid: "+text))
		}
	}
	if s.InsecureSkipTLSVerify && len(s.CABundle) > 0 {
		errs = append(errs, field.Invalid(skip, s.InsecureSkipTLSVerify, "may not be true if caBundle is present"))
	}
	return errs
}
