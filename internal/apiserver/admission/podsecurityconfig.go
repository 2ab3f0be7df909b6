package admission

import (
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	psadmission "k8s.io/pod-security-admission/admission/api"
	psv1 "k8s.io/pod-security-admission/admission/api/v1"
	psvalidation "k8s.io/pod-security-admission/admission/api/validation"
	psapi "k8s.io/pod-security-admission/api"
	"sigs.k8s.io/yaml"
)

// PodSecurityConfig is what the administrator wants of namespaces without labels, and who is exempt from all standards.
type PodSecurityConfig struct {
	Defaults psapi.Policy
	// Usernames, Namespaces and RuntimeClasses are exempt.
	Usernames, Namespaces, RuntimeClasses []string
}

func noPodSecurity() *PodSecurityConfig {
	privileged := psapi.LevelVersion{Level: psapi.LevelPrivileged, Version: psapi.LatestVersion()}
	return &PodSecurityConfig{Defaults: psapi.Policy{Enforce: privileged, Audit: privileged, Warn: privileged}}
}

// podSecurityGroup is the API group of the configuration; its versions have one shape.
const podSecurityGroup = "pod-security.admission.config.k8s.io/"

// readPodSecurity reads a PodSecurityConfiguration, as YAML or JSON.
func readPodSecurity(data []byte) (*PodSecurityConfig, error) {
	var file psv1.PodSecurityConfiguration
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return nil, err
	}
	version, ok := strings.CutPrefix(file.APIVersion, podSecurityGroup)
	if !ok || file.Kind != "PodSecurityConfiguration" || !slices.Contains([]string{"v1", "v1beta1", "v1alpha1"}, version) {
		return nil, fmt.Errorf("%q of %q is no PodSecurityConfiguration of %sv1", file.Kind, file.APIVersion, podSecurityGroup)
	}
	d := &file.Defaults
	for _, level := range [...]*string{&d.Enforce, &d.Audit, &d.Warn} {
		if *level == "" {
			*level = string(psapi.LevelPrivileged)
		}
	}
	for _, version := range [...]*string{&d.EnforceVersion, &d.AuditVersion, &d.WarnVersion} {
		if *version == "" {
			*version = psapi.VersionLatest
		}
	}
	whole := psadmission.PodSecurityConfiguration{
		Defaults: psadmission.PodSecurityDefaults{
			Enforce: d.Enforce, EnforceVersion: d.EnforceVersion, Audit: d.Audit, AuditVersion: d.AuditVersion, Warn: d.Warn, WarnVersion: d.WarnVersion,
		},
		Exemptions: psadmission.PodSecurityExemptions{
			Usernames: file.Exemptions.Usernames, Namespaces: file.Exemptions.Namespaces, RuntimeClasses: file.Exemptions.RuntimeClasses,
		},
	}
	if errs := psvalidation.ValidatePodSecurityConfiguration(&whole); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	pol, err := psadmission.ToPolicy(whole.Defaults)
	if err != nil {
		return nil, err
	}
	return &PodSecurityConfig{
		Defaults: pol, Usernames: file.Exemptions.Usernames, Namespaces: file.Exemptions.Namespaces, RuntimeClasses: file.Exemptions.RuntimeClasses,
	}, nil
}

func (c *PodSecurityConfig) exemptNamespace(name string) bool {
	return name != "" && slices.Contains(c.Namespaces, name)
}

func (c *PodSecurityConfig) exemptRuntimeClass(name *string) bool {
	return name != nil && *name != "" && slices.Contains(c.RuntimeClasses, *name)
}

// warnOfExemption says that the labels of an exempt namespace have no consequence.
func (c *PodSecurityConfig) warnOfExemption(a *Attributes, ns *corev1.Namespace, p psapi.Policy) {
	if p.FullyPrivileged() || p.Equivalent(&c.Defaults) {
		return
	}
	var asked []string
	for _, m := range [...]struct {
		name, level, version string
		want                 psapi.LevelVersion
	}{
		{"enforce", psapi.EnforceLevelLabel, psapi.EnforceVersionLabel, p.Enforce},
		{"audit", psapi.AuditLevelLabel, psapi.AuditVersionLabel, p.Audit},
		{"warn", psapi.WarnLevelLabel, psapi.WarnVersionLabel, p.Warn},
	} {
		_, level := ns.Labels[m.level]
		_, version := ns.Labels[m.version]
		if m.want.Level != psapi.LevelPrivileged && (level || version) {
			asked = append(asked, m.name+"="+m.want.String())
		}
	}
	a.Warn(fmt.Sprintf("namespace %q is exempt from Pod Security, and the policy (%s) will be ignored", ns.Name, strings.Join(asked, ", ")))
}

// podSecurityCounts are the metrics of the plugin.
type podSecurityCounts struct {
	evaluations, exemptions, errors *prometheus.CounterVec
}

func newPodSecurityCounts() podSecurityCounts {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	what := []string{"request_operation", "resource", "subresource"}
	return podSecurityCounts{
		evaluations: counter("pod_security_evaluations_total", "Decisions about pods, by level and mode.", append([]string{"decision", "policy_level", "policy_version", "mode"}, what...)...),
		exemptions:  counter("pod_security_exemptions_total", "Requests that nobody judged because they are exempt.", what...),
		errors:      counter("pod_security_errors_total", "Errors that kept pods from being judged as asked.", append([]string{"fatal"}, what...)...),
	}
}

// Metrics are registered with those of admission.
func (p *PodSecurity) Metrics() []prometheus.Collector {
	return []prometheus.Collector{p.counts.evaluations, p.counts.exemptions, p.counts.errors}
}

// requestLabels are the labels that name a request.
func requestLabels(a *Attributes) (operation, resource, subresource string) {
	resource = "controller"
	switch a.groupResource().String() {
	case "pods":
		resource = "pod"
	case "namespaces":
		resource = "namespace"
	}
	return strings.ToLower(string(a.Operation)), resource, a.Subresource
}

func (c podSecurityCounts) judged(a *Attributes, mode string, level psapi.LevelVersion, allowed bool) {
	decision, version := "deny", level.Version.String()
	if allowed {
		decision = "allow"
	}
	if level.Level == psapi.LevelPrivileged {
		version = psapi.VersionLatest
	}
	operation, resource, subresource := requestLabels(a)
	c.evaluations.WithLabelValues(decision, string(level.Level), version, mode, operation, resource, subresource).Inc()
}

func (c podSecurityCounts) exempted(a *Attributes) {
	operation, resource, subresource := requestLabels(a)
	c.exemptions.WithLabelValues(operation, resource, subresource).Inc()
}

func (c podSecurityCounts) failed(a *Attributes) {
	operation, resource, subresource := requestLabels(a)
	c.errors.WithLabelValues("false", operation, resource, subresource).Inc()
}
