package config

import (
	"errors"
	"fmt"
	"os"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

const (
	apiVersion = "kubescheduler.config.k8s.io/v1"
	kind       = "KubeSchedulerConfiguration"
)

// Default is the configuration without a file.
func Default() *Scheduler {
	out, _ := complete(&schedulerv1.KubeSchedulerConfiguration{}, nil) // the defaults are valid; a test says so
	return out
}

// Load reads a file. Errors name the file and the line.
func Load(file string) (*Scheduler, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("scheduler configuration: %w", err)
	}
	out, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("scheduler configuration %s: %w", file, err)
	}
	return out, nil
}

// Parse reads a configuration in YAML or JSON. The error lists everything that is wrong, each with its line.
func Parse(data []byte) (*Scheduler, error) {
	doc, err := read(data)
	if err != nil {
		return nil, err
	}
	var in schedulerv1.KubeSchedulerConfiguration
	doc.decode("", doc.root, &in)
	if v, k := in.APIVersion, in.Kind; v != apiVersion || k != kind {
		if in.Kind == kind && in.APIVersion != "" {
			return nil, fmt.Errorf("line %d: apiVersion %q is not supported: use %s", doc.line("apiVersion"), v, apiVersion)
		}
		return nil, fmt.Errorf("line %d: want apiVersion: %s and kind: %s, got %q and %q", max(1, doc.line("kind")), apiVersion, kind, v, k)
	}
	if len(doc.errs) > 0 {
		return nil, errors.Join(doc.errs...)
	}
	out, errs := complete(&in, doc)
	if err := errors.Join(doc.errs...); err != nil {
		return nil, err // arguments that can't be read
	}
	if len(errs) == 0 {
		return out, nil
	}
	var all []error
	for _, e := range errs {
		if n := doc.line(e.Field); n > 0 {
			all = append(all, fmt.Errorf("line %d: %w", n, e))
		} else {
			all = append(all, e)
		}
	}
	return nil, errors.Join(all...)
}

// complete fills in the defaults and checks everything. doc is where the arguments of plugins come from; nil if there are none.
func complete(in *schedulerv1.KubeSchedulerConfiguration, doc *document) (*Scheduler, field.ErrorList) {
	le, cc := &in.LeaderElection, &in.ClientConnection
	out := &Scheduler{
		Parallelism:    int(or(in.Parallelism, 16)),
		InitialBackoff: time.Duration(or(in.PodInitialBackoffSeconds, 1)) * time.Second,
		MaxBackoff:     time.Duration(or(in.PodMaxBackoffSeconds, 10)) * time.Second,
		LeaderElection: LeaderElection{
			LeaderElect: or(le.LeaderElect, true), LeaseDuration: orDuration(le.LeaseDuration, 15*time.Second),
			RenewDeadline: orDuration(le.RenewDeadline, 10*time.Second), RetryPeriod: orDuration(le.RetryPeriod, 2*time.Second),
			ResourceLock: orText(le.ResourceLock, "leases"), ResourceNamespace: orText(le.ResourceNamespace, schedulerv1.SchedulerDefaultLockObjectNamespace),
			ResourceName: orText(le.ResourceName, schedulerv1.SchedulerDefaultLockObjectName),
		},
		ClientConnection: ClientConnection{
			Kubeconfig: cc.Kubeconfig, AcceptContentTypes: cc.AcceptContentTypes, ContentType: orText(cc.ContentType, "application/vnd.kubernetes.protobuf"),
			QPS: cc.QPS, Burst: cc.Burst,
		},
		Extenders:             in.Extenders,
		EnableProfiling:       or(in.EnableProfiling, true),
		DelayCacheUntilActive: in.DelayCacheUntilActive,
	}
	out.EnableContentionProfiling = or(in.EnableContentionProfiling, out.EnableProfiling)
	if out.ClientConnection.QPS == 0 {
		out.ClientConnection.QPS = 50
	}
	if out.ClientConnection.Burst == 0 {
		out.ClientConnection.Burst = 100
	}
	profiles := in.Profiles
	if len(profiles) == 0 {
		profiles = []schedulerv1.KubeSchedulerProfile{{}}
	}
	if len(profiles) == 1 && profiles[0].SchedulerName == nil {
		name := v1.DefaultSchedulerName
		profiles = []schedulerv1.KubeSchedulerProfile{profiles[0]}
		profiles[0].SchedulerName = &name
	}
	var errs field.ErrorList
	path := field.NewPath("profiles")
	for i := range profiles {
		p, more := completeProfile(path.Index(i), &profiles[i], or(in.PercentageOfNodesToScore, 0), doc)
		out.Profiles = append(out.Profiles, p)
		errs = append(errs, more...)
	}
	for _, e := range in.Extenders {
		for _, r := range e.ManagedResources {
			if r.IgnoredByScheduler {
				// The extender counts it; NodeResourcesFit must not.
				for i := range out.Profiles {
					fit := &out.Profiles[i].Arguments.NodeResourcesFit
					fit.IgnoredResources = append(fit.IgnoredResources, r.Name)
				}
			}
		}
	}
	errs = append(errs, validate(in, out)...)
	return out, errs
}

func completeProfile(path *field.Path, in *schedulerv1.KubeSchedulerProfile, percentage int32, doc *document) (Profile, field.ErrorList) {
	out := Profile{SchedulerName: or(in.SchedulerName, ""), PercentageOfNodesToScore: or(in.PercentageOfNodesToScore, percentage)}
	var errs field.ErrorList
	if out.SchedulerName == "" {
		errs = append(errs, field.Required(path.Child("schedulerName"), "with several profiles, each must say for which pods it is"))
	}
	errs = append(errs, validatePercentage(path.Child("percentageOfNodesToScore"), in.PercentageOfNodesToScore)...)
	plugins, more := resolve(path.Child("plugins"), in.Plugins)
	out.Plugins = plugins
	errs = append(errs, more...)
	errs = append(errs, arguments(path.Child("pluginConfig"), in.PluginConfig, doc, &out.Arguments)...)
	return out, errs
}

func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

func orDuration(d metav1.Duration, otherwise time.Duration) time.Duration {
	if d.Duration == 0 {
		return otherwise
	}
	return d.Duration
}

func orText(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
