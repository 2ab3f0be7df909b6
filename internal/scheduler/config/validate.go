package config

import (
	"fmt"
	"net/url"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

// validate checks everything but what is inside profiles.
func validate(in *schedulerv1.KubeSchedulerConfiguration, out *Scheduler) field.ErrorList {
	var errs field.ErrorList
	if out.Parallelism <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("parallelism"), out.Parallelism, "should be an integer value greater than zero"))
	}
	errs = append(errs, validatePercentage(field.NewPath("percentageOfNodesToScore"), in.PercentageOfNodesToScore)...)
	if n := or(in.PodInitialBackoffSeconds, 1); n <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("podInitialBackoffSeconds"), n, "must be greater than 0"))
	}
	if out.MaxBackoff < out.InitialBackoff {
		errs = append(errs, field.Invalid(field.NewPath("podMaxBackoffSeconds"), or(in.PodMaxBackoffSeconds, 10), "must be greater than or equal to PodInitialBackoffSeconds"))
	}
	for _, s := range []struct {
		key     string
		seconds *int64
	}{{"podInitialBackoffSeconds", in.PodInitialBackoffSeconds}, {"podMaxBackoffSeconds", in.PodMaxBackoffSeconds}} {
		if or(s.seconds, 0) > maxSeconds {
			errs = append(errs, field.Invalid(field.NewPath(s.key), *s.seconds, fmt.Sprintf("must be at most %d", maxSeconds)))
		}
	}
	if out.ClientConnection.Burst < 0 {
		errs = append(errs, field.Invalid(field.NewPath("clientConnection", "burst"), out.ClientConnection.Burst, "must be non-negative"))
	}
	errs = append(errs, validateElection(field.NewPath("leaderElection"), &out.LeaderElection)...)
	path := field.NewPath("profiles")
	for i := range out.Profiles {
		p := &out.Profiles[i]
		for k := range i {
			if first := &out.Profiles[k]; first.SchedulerName == p.SchedulerName && p.SchedulerName != "" {
				errs = append(errs, field.Duplicate(path.Index(i).Child("schedulerName"), p.SchedulerName))
				break
			}
		}
		if a, b := out.Profiles[0].Plugins.QueueSort, p.Plugins.QueueSort; len(a) == 1 && len(b) == 1 && a[0] != b[0] {
			errs = append(errs, field.Invalid(path.Index(i).Child("plugins", "queueSort"), b[0].Name, "must be the same for all profiles"))
		}
	}
	return append(errs, validateExtenders(field.NewPath("extenders"), in.Extenders)...)
}

// maxSeconds bounds back-offs, so that they can't overflow: a year.
const maxSeconds = 365 * 24 * 60 * 60

func validatePercentage(path *field.Path, n *int32) field.ErrorList {
	if n != nil && (*n < 0 || *n > 100) {
		return field.ErrorList{field.Invalid(path, *n, "not in valid range [0-100]")}
	}
	return nil
}

func validateElection(path *field.Path, le *LeaderElection) field.ErrorList {
	if !le.LeaderElect {
		return nil
	}
	var errs field.ErrorList
	if le.LeaseDuration < 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDuration"), le.LeaseDuration.String(), "must be greater than zero"))
	}
	if le.RenewDeadline < 0 {
		errs = append(errs, field.Invalid(path.Child("renewDeadline"), le.RenewDeadline.String(), "must be greater than zero"))
	}
	if le.RetryPeriod < 0 {
		errs = append(errs, field.Invalid(path.Child("retryPeriod"), le.RetryPeriod.String(), "must be greater than zero"))
	}
	if le.LeaseDuration <= le.RenewDeadline {
		errs = append(errs, field.Invalid(path.Child("leaseDuration"), le.LeaseDuration.String(), "must be greater than `RenewDeadline`"))
	}
	if le.ResourceLock != "leases" {
		errs = append(errs, field.Invalid(path.Child("resourceLock"), le.ResourceLock, `resourceLock value must be "leases"`))
	}
	return errs
}

func validateExtenders(path *field.Path, list []schedulerv1.Extender) field.ErrorList {
	var errs field.ErrorList
	binders := 0
	managed := map[string]bool{}
	for i := range list {
		e, path := &list[i], path.Index(i)
		if u, err := url.Parse(e.URLPrefix); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			errs = append(errs, field.Invalid(path.Child("urlPrefix"), e.URLPrefix, "must be a URL like https://extender.example.com/scheduler"))
		}
		if e.PrioritizeVerb != "" && e.Weight <= 0 {
			errs = append(errs, field.Invalid(path.Child("weight"), e.Weight, "must have a positive weight applied to it"))
		}
		if e.BindVerb != "" {
			binders++
		}
		if e.HTTPTimeout.Duration < 0 {
			errs = append(errs, field.Invalid(path.Child("httpTimeout"), e.HTTPTimeout.Duration.String(), "must not be negative"))
		}
		for j, r := range e.ManagedResources {
			name := path.Child("managedResources").Index(j).Child("name")
			if msg := extendedResource(r.Name); msg != "" {
				errs = append(errs, field.Invalid(name, r.Name, msg))
			}
			if managed[r.Name] {
				errs = append(errs, field.Invalid(name, r.Name, "duplicate extender managed resource name"))
			}
			managed[r.Name] = true
		}
	}
	if binders > 1 {
		errs = append(errs, field.Invalid(path, fmt.Sprintf("found %d extenders implementing bind", binders), "only one extender can implement bind"))
	}
	return errs
}

// extendedResource says what is wrong with the name of an extended resource, or nothing.
func extendedResource(name string) string {
	if msgs := validation.IsQualifiedName(name); len(msgs) > 0 {
		return strings.Join(msgs, "; ")
	}
	if !strings.Contains(name, "/") || strings.Contains(name, v1.ResourceDefaultNamespacePrefix) || strings.HasPrefix(name, v1.DefaultResourceRequestsPrefix) ||
		len(validation.IsQualifiedName(v1.DefaultResourceRequestsPrefix+name)) > 0 {
		return "is an invalid extended resource name"
	}
	return ""
}
