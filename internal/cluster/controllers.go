package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/authn"
	"github.com/celox/celox/internal/apiserver/bootstrap"
	"github.com/celox/celox/internal/apiserver/custom"
	"github.com/celox/celox/internal/client"
	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/cluster/version"
	"github.com/celox/celox/internal/controller"
	"github.com/celox/celox/internal/controller/attachdetach"
	"github.com/celox/celox/internal/controller/bootstrapsigner"
	"github.com/celox/celox/internal/controller/certificates"
	"github.com/celox/celox/internal/controller/clusterroleaggregation"
	"github.com/celox/celox/internal/controller/cronjob"
	"github.com/celox/celox/internal/controller/daemonset"
	"github.com/celox/celox/internal/controller/deployment"
	"github.com/celox/celox/internal/controller/devicetainteviction"
	"github.com/celox/celox/internal/controller/disruption"
	"github.com/celox/celox/internal/controller/endpoints"
	"github.com/celox/celox/internal/controller/endpointslice"
	"github.com/celox/celox/internal/controller/endpointslicemirroring"
	"github.com/celox/celox/internal/controller/ephemeralvolume"
	"github.com/celox/celox/internal/controller/expand"
	"github.com/celox/celox/internal/controller/garbagecollector"
	"github.com/celox/celox/internal/controller/ingressstatus"
	"github.com/celox/celox/internal/controller/ipaddress"
	"github.com/celox/celox/internal/controller/job"
	"github.com/celox/celox/internal/controller/legacytoken"
	"github.com/celox/celox/internal/controller/loadbalancer"
	"github.com/celox/celox/internal/controller/namespace"
	"github.com/celox/celox/internal/controller/nodeipam"
	"github.com/celox/celox/internal/controller/nodelifecycle"
	"github.com/celox/celox/internal/controller/nodettl"
	"github.com/celox/celox/internal/controller/persistentvolume"
	"github.com/celox/celox/internal/controller/podautoscaler"
	"github.com/celox/celox/internal/controller/podcertificate"
	"github.com/celox/celox/internal/controller/podgc"
	"github.com/celox/celox/internal/controller/policystatus"
	"github.com/celox/celox/internal/controller/pvcprotection"
	"github.com/celox/celox/internal/controller/pvprotection"
	"github.com/celox/celox/internal/controller/replicaset"
	"github.com/celox/celox/internal/controller/resourceclaim"
	"github.com/celox/celox/internal/controller/resourcequota"
	"github.com/celox/celox/internal/controller/rootca"
	"github.com/celox/celox/internal/controller/serviceaccount"
	"github.com/celox/celox/internal/controller/serviceaccounttoken"
	"github.com/celox/celox/internal/controller/servicecidr"
	"github.com/celox/celox/internal/controller/servingapproval"
	"github.com/celox/celox/internal/controller/statefulset"
	"github.com/celox/celox/internal/controller/storagemigration"
	"github.com/celox/celox/internal/controller/tainteviction"
	"github.com/celox/celox/internal/controller/tokencleaner"
	"github.com/celox/celox/internal/controller/trustbundle"
	"github.com/celox/celox/internal/controller/ttlafterfinished"
	"github.com/celox/celox/internal/controller/vacprotection"
	"github.com/celox/celox/internal/network/mesh"
	"github.com/celox/celox/internal/scheduler"
	schedulerconfig "github.com/celox/celox/internal/scheduler/config"
	"github.com/celox/celox/internal/scheduler/extender"
)

// runner is a controller.
type runner interface {
	Run(ctx context.Context) error
}

// namedRunner is a controller and what it is called.
type namedRunner struct {
	runner
	name string
}

// account is the identity of a controller: a service account of kube-system, with just the rights of the role that bootstrap gives to it.
func account(name string) user.Info {
	return &user.DefaultInfo{
		Name: authn.ServiceAccountUserName("kube-system", name), Groups: append(authn.ServiceAccountGroups("kube-system"), user.AllAuthenticated),
	}
}

// controllerAgent is the user agent of a controller. What is before the slash is the manager that its writes are recorded under, and that
// conflicts of server-side apply name: as upstream the program that controllers are a part of there.
func controllerAgent(name string) string {
	return "kube-controller-manager/" + version.Kubernetes + " " + authn.ServiceAccountUserName("kube-system", name)
}

// sources are the collections whose objects informers of this process share with the store: all but events, which nobody reconciles.
func (p *controlPlane) sources() []client.Source {
	var out []client.Source
	for _, k := range p.catalogue.Kinds() {
		if k.Virtual || k.TTL > 0 {
			continue
		}
		if c, ok := p.store.Collection(k.GroupResource()); ok {
			out = append(out, client.Source{GroupResource: k.GroupResource(), Example: p.catalogue.New(k), Reader: c})
		}
	}
	return out
}

// startControllers starts the scheduler and every controller: at once if this server is alone with its store, else whenever it is this server that leads.
func (s *Server) startControllers(run *group, p *controlPlane) error {
	watcher, err := p.client(account("informers"), "celox-informers")
	if err != nil {
		return err
	}
	sources := p.sources()
	for i := range sources {
		sources[i].Log = s.log
	}
	p.informers = client.Informers(watcher, sources)
	if s.elects() {
		p.runInformers(run, p.informers)
		return errors.Join(
			s.elect(run, p, "kube-controller-manager", user.KubeControllerManager, func(term *group) error {
				return s.startParts(term, p, client.Informers(watcher, sources), func(f *informers.Factory) ([]namedRunner, error) {
					return s.makeControllers(term, p, f, renewing{p.metrics}, sources)
				})
			}),
			s.elect(run, p, "kube-scheduler", user.KubeScheduler, func(term *group) error {
				return s.startParts(term, p, client.Informers(watcher, sources), func(f *informers.Factory) ([]namedRunner, error) {
					return s.makeScheduler(term, p, f, renewing{p.metrics})
				})
			}))
	}
	return s.startParts(run, p, p.informers, func(f *informers.Factory) ([]namedRunner, error) {
		controllers, err := s.makeControllers(run, p, f, p.metrics, sources)
		if err != nil {
			return nil, err
		}
		scheduler, err := s.makeScheduler(run, p, f, p.metrics)
		return append(controllers, scheduler...), err
	})
}

// startParts makes controllers over informers, starts these and then those.
func (s *Server) startParts(run *group, p *controlPlane, f *informers.Factory, make func(*informers.Factory) ([]namedRunner, error)) error {
	all, err := make(f)
	if err != nil {
		return err
	}
	p.runInformers(run, f)
	for _, c := range all {
		run.run(c.name, c.Run)
	}
	return nil
}

func (p *controlPlane) runInformers(run *group, f *informers.Factory) {
	run.run("informers", func(ctx context.Context) error {
		f.StartWithContext(ctx)
		<-ctx.Done()
		f.Shutdown()
		return nil
	})
}

// makeControllers makes the controllers that are to run.
func (s *Server) makeControllers(run *group, p *controlPlane, f *informers.Factory, metrics prometheus.Registerer, sources []client.Source) ([]namedRunner, error) {
	m := controller.NewMetrics(metrics)
	running := m.Gauge("running_managed_controllers", "Whether a controller runs, 1 if so.", "name", "manager")
	var all []namedRunner
	for _, c := range s.controllers(run, p, f, m, metrics, sources) {
		// The API server's own work is not for choice.
		if slices.Contains(s.simulation.Without, c.name) || c.name != "ipaddress" && c.name != "legacy-token-tracking" && !s.cfg.Runs(c.name) {
			continue
		}
		made, err := c.make(c.name)
		if err != nil {
			return nil, fmt.Errorf("controller %s: %w", c.name, err)
		}
		all = append(all, namedRunner{made, c.name})
		running.Set(1, c.name, "kube-controller-manager")
	}
	return all, nil
}

// makeScheduler makes the scheduler, if it is to run.
func (s *Server) makeScheduler(run *group, p *controlPlane, f *informers.Factory, metrics prometheus.Registerer) ([]namedRunner, error) {
	if !s.cfg.Runs(config.SchedulerName) {
		return nil, nil
	}
	who := &user.DefaultInfo{Name: user.KubeScheduler, Groups: []string{user.AllAuthenticated}}
	sched, err := p.client(who, "kube-scheduler")
	if err != nil {
		return nil, err
	}
	schedulerConfig, err := s.cfg.Scheduler()
	if err != nil {
		return nil, fmt.Errorf("scheduler: %w", err)
	}
	extenders, err := schedulerExtenders(run, schedulerConfig, f)
	if err != nil {
		return nil, fmt.Errorf("scheduler: %w", err)
	}
	made, err := scheduler.New(scheduler.Config{
		Client: sched, Poster: client.NewPoster(p.handler, who, "kube-scheduler"), Informers: f, Log: s.log, Clock: clock.RealClock{}, Settings: schedulerConfig, Extenders: extenders, Metrics: metrics,
		CrashHalfLife: s.cfg.CrashMemory,
	})
	if err != nil {
		return nil, fmt.Errorf("scheduler: %w", err)
	}
	return []namedRunner{{made, config.SchedulerName}}, nil
}

// schedulerExtenders are the programs that the scheduler asks.
func schedulerExtenders(run *group, cfg *schedulerconfig.Scheduler, f *informers.Factory) ([]scheduler.Extender, error) {
	var out []scheduler.Extender
	for _, c := range cfg.Extenders {
		e, err := extender.New(c, f.Core().V1().Nodes().Lister())
		if err != nil {
			return nil, err
		}
		run.atEnd("scheduler extender", func() error {
			e.Close()
			return nil
		})
		out = append(out, e)
	}
	return out, nil
}

// recorder writes events as component through c.
func (s *Server) recorder(run *group, c kubernetes.Interface, component string) record.EventRecorder {
	b := record.NewBroadcaster(record.WithContext(context.WithoutCancel(run.parent)))
	b.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.CoreV1().Events("")})
	run.atEnd("events of "+component, func() error {
		b.Shutdown()
		return nil
	})
	return b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
}

// entry is one controller in the list: the name of its service account and how it is made.
type entry struct {
	name string
	make func(name string) (runner, error)
}

// controllers are all that there are; config.Controllers has their names.
func (s *Server) controllers(run *group, p *controlPlane, f *informers.Factory, m *controller.Metrics, metrics prometheus.Registerer, sources []client.Source) []entry {
	clk := clock.RealClock{}
	// with makes a controller that needs a client and a recorder.
	with := func(f func(c kubernetes.Interface, name string) (runner, error)) func(string) (runner, error) {
		return func(name string) (runner, error) {
			c, err := p.client(account(name), controllerAgent(name))
			if err != nil {
				return nil, err
			}
			return f(c, name)
		}
	}
	meta := func(name string) (metadata.Interface, error) {
		return metadata.NewForConfig(client.InProcess(p.handler, account(name), controllerAgent(name)))
	}
	return []entry{
		{"service-account-controller", with(func(c kubernetes.Interface, _ string) (runner, error) { return serviceaccount.New(c, f, s.log, m) })},
		{"root-ca-cert-publisher", with(func(c kubernetes.Interface, _ string) (runner, error) {
			return rootca.New(c, f, p.certs.CACertPEM(), s.log, m)
		})},
		{"kube-apiserver-serving-clustertrustbundle-publisher", with(func(c kubernetes.Interface, _ string) (runner, error) {
			return trustbundle.New(c, f, p.certs.CACertPEM(), s.log, m)
		})},
		{"deployment-controller", with(func(c kubernetes.Interface, name string) (runner, error) {
			return deployment.New(c, f, s.recorder(run, c, name), clk, s.log, m)
		})},
		{"replicaset-controller", with(func(c kubernetes.Interface, name string) (runner, error) {
			return replicaset.New(c, f, s.recorder(run, c, name), clk, s.log, m)
		})},
		{"replication-controller", with(func(c kubernetes.Interface, name string) (runner, error) {
			return replicaset.NewReplication(c, f, s.recorder(run, c, name), clk, s.log, m)
		})},
		{"statefulset-controller", with(func(c kubernetes.Interface, name string) (runner, error) {
			return statefulset.New(c, f, s.recorder(run, c, name), clk, s.log, m)
		})},
		{"disruption-controller", with(func(c kubernetes.Interface, _ string) (runner, error) {
			others := podautoscaler.NewAPI(c.Discovery().RESTClient(), p.resourceOf) // who else asks for scales
			return disruption.New(c, f, disruption.NewWorkloads(f, others), s.recorder(run, c, "controllermanager"), clk, s.log, m)
		})},
		{"daemon-set-controller", with(func(c kubernetes.Interface, _ string) (runner, error) {
			return daemonset.New(c, f, s.recorder(run, c, "daemonset-controller"), clk, s.log, m)
		})},
		{"job-controller", with(func(c kubernetes.Interface, name string) (runner, error) {
			ctl, err := job.New(c, f, s.recorder(run, c, name), clk, s.log, m)
			if err != nil {
				return nil, err
			}
			ctl.Metrics = job.NewMetrics(metrics)
			return ctl, nil
		})},
		{"cronjob-controller", with(func(c kubernetes.Interface, name string) (runner, error) {
			ctl, err := cronjob.New(c, f, s.recorder(run, c, name), clk, s.log, m)
			if err != nil {
				return nil, err
			}
			ctl.Metrics = cronjob.NewMetrics(metrics)
			return ctl, nil
		})},
		{"ttl-after-finished-controller", with(func(c kubernetes.Interface, _ string) (runner, error) {
			return ttlafterfinished.New(c, f, clk, s.log, m)
		})},
		{"endpointslice-controller", with(func(c kubernetes.Interface, _ string) (runner, error) {
			return endpointslice.New(c, f, s.recorder(run, c, "endpoint-slice-controller"), s.log, m)
		})},
		{"endpointslice-mirroring-controller", func(string) (runner, error) {
			// Its account is not called as it is.
			c, err := p.client(account("endpointslicemirroring-controller"), controllerAgent("endpointslicemirroring-controller"))
			if err != nil {
				return nil, err
			}
			return endpointslicemirroring.New(c, f, s.recorder(run, c, "endpoint-slice-mirroring-controller"), clk, s.log, m)
		}},
		{"endpoint-controller", with(func(c kubernetes.Interface, name string) (runner, error) {
			return endpoints.New(c, f, s.recorder(run, c, name), s.log, m)
		})},
		{"service-lb-controller", func(string) (runner, error) {
			// Its account has upstream's name, which is another.
			c, err := p.client(account("service-controller"), controllerAgent("service-controller"))
			if err != nil {
				return nil, err
			}
			return loadbalancer.New(loadbalancer.Config{
				Client: c, Informers: f, Recorder: s.recorder(run, c, "service-controller"), Reserved: s.reservedPorts(), Release: s.cfg.Disables(config.LoadBalancer), Log: s.log, Metrics: m,
			})
		}},
		{bootstrap.PolicyController, with(func(c kubernetes.Interface, _ string) (runner, error) { return s.policyStatuses(c) })},
		{bootstrap.IngressController, with(func(c kubernetes.Interface, name string) (runner, error) {
			return ingressstatus.New(ingressstatus.Config{
				Client: c, Informers: f, Recorder: s.recorder(run, c, name), HTTPPort: s.cfg.Ingress.HTTPPort, HTTPSPort: s.cfg.Ingress.HTTPSPort,
				Disabled: s.cfg.Disables(config.IngressController), Log: s.log, Metrics: m,
			})
		})},
		{"service-cidrs-controller", with(func(c kubernetes.Interface, _ string) (runner, error) { return servicecidr.New(c, f, s.log, m) })},
		// As upstream, the API server itself keeps the objects of the addresses that it gives out.
		{"ipaddress", func(string) (runner, error) { return ipaddress.New(p.admin, f, s.log, m) }},
		// As is since when it notes the use of tokens in secrets.
		{"legacy-token-tracking", func(string) (runner, error) { return legacytoken.NewTracker(p.admin, f, clk, s.log, m) }},
		{"legacy-service-account-token-cleaner", with(func(c kubernetes.Interface, _ string) (runner, error) {
			return legacytoken.NewCleaner(c, f, clk, s.log, m)
		})},
		{"pod-garbage-collector", with(func(c kubernetes.Interface, _ string) (runner, error) { return podgc.New(c, f, clk, s.log, m) })},
		{"node-controller", with(func(c kubernetes.Interface, name string) (runner, error) {
			local := s.cfg.NodeName
			if s.cfg.DisableNode || s.elects() {
				local = "" // which of several servers leads may change: the nodes of all have heartbeats
			}
			return nodelifecycle.New(nodelifecycle.Config{
				Client: c, Informers: f, Recorder: s.recorder(run, c, name), Clock: clk, Log: s.log, Metrics: m, Registry: metrics, Local: local,
			})
		})},
		{"taint-eviction-controller", func(name string) (runner, error) {
			// As upstream, with the rights of the controller that looks after nodes: it has none of its own.
			c, err := p.client(account("node-controller"), controllerAgent(name))
			if err != nil {
				return nil, err
			}
			return tainteviction.New(c, f, s.recorder(run, c, name), clk, s.log, m)
		}},
		{"namespace-controller", with(func(c kubernetes.Interface, name string) (runner, error) {
			mc, err := meta(name)
			if err != nil {
				return nil, err
			}
			var contents []cache.SharedIndexInformer
			for _, src := range sources {
				if k, ok := p.catalogue.ByGroupResource(src.GroupResource); ok && k.Namespaced {
					contents = append(contents, client.InformerFor(f, src))
				}
			}
			ctl, err := namespace.New(c, mc, p.namespacedResources, contents, f, clk, s.log, m)
			if err != nil {
				return nil, err
			}
			return withCustoms{ctl, p.api.Customs(), custom.Follower{
				Changed: func(schema.GroupVersionResource, metav1.Object) {},
				Deleted: func(_ schema.GroupVersionResource, obj metav1.Object) { ctl.Deleted(obj) },
			}}, nil
		})},
		{"resourcequota-controller", with(func(c kubernetes.Interface, name string) (runner, error) {
			mc, err := meta(name)
			if err != nil {
				return nil, err
			}
			return resourcequota.New(resourcequota.Config{
				Client: c, Metadata: mc, Informers: f, Resources: p.countable(f, sources), Resolve: p.countedApart, Clock: clk, Log: s.log, Metrics: m,
			})
		})},
		{"clusterrole-aggregation-controller", with(func(c kubernetes.Interface, _ string) (runner, error) {
			return clusterroleaggregation.New(c, f, s.log, m)
		})},
		{"tokens-controller", func(name string) (runner, error) {
			// The one controller that acts as the controller manager: who fills secrets with tokens may read every secret.
			c, err := p.client(&user.DefaultInfo{Name: user.KubeControllerManager, Groups: []string{user.AllAuthenticated}}, name)
			if err != nil {
				return nil, err
			}
			return serviceaccounttoken.New(c, f, p.accounts.LegacyToken, p.certs.CACertPEM(), s.log, m)
		}},
		{"node-ipam-controller", func(string) (runner, error) {
			// As upstream, with the rights of the controller that looks after nodes.
			c, err := p.client(account("node-controller"), controllerAgent("node-controller"))
			if err != nil {
				return nil, err
			}
			ranges, err := s.nodeRanges()
			if err != nil {
				return nil, err
			}
			return nodeipam.New(nodeipam.Config{Client: c, Informers: f, Recorder: s.recorder(run, c, "cidrAllocator"), Ranges: ranges, Log: s.log, Metrics: m})
		}},
		{"bootstrap-signer", with(func(c kubernetes.Interface, _ string) (runner, error) {
			return bootstrapsigner.New(c, f, clk, s.log, m)
		})},
		{"token-cleaner", with(func(c kubernetes.Interface, _ string) (runner, error) { return tokencleaner.New(c, f, clk, s.log, m) })},
		{bootstrap.ServingApprover, with(func(c kubernetes.Interface, _ string) (runner, error) {
			services, err := s.cfg.ServiceCIDRs()
			if err != nil {
				return nil, err
			}
			return servingapproval.New(c, f, services, s.log, m)
		})},
		{"ttl-controller", with(func(c kubernetes.Interface, _ string) (runner, error) { return nodettl.New(c, f, s.log, m) })},
		{"certificate-controller", with(func(c kubernetes.Interface, _ string) (runner, error) {
			ca, key := p.certs.CA()
			return certificates.New(c, f, ca, key, clk, s.log, m)
		})},
		{"podcertificaterequestcleaner", with(func(c kubernetes.Interface, _ string) (runner, error) {
			return podcertificate.NewCleaner(c, f, clk, s.log, m)
		})},
		{"horizontal-pod-autoscaler", with(func(c kubernetes.Interface, name string) (runner, error) {
			rest := podautoscaler.NewAPI(c.Discovery().RESTClient(), p.resourceOf)
			return podautoscaler.New(podautoscaler.Config{
				Client: c, Informers: f, Source: rest, Scales: rest, Recorder: s.recorder(run, c, name), Clock: clk, Log: s.log, Queue: m, Metrics: podautoscaler.NewMetrics(metrics),
			})
		})},
		{"persistent-volume-binder", with(func(c kubernetes.Interface, _ string) (runner, error) {
			return persistentvolume.New(persistentvolume.Config{
				Client: c, Informers: f, Recorder: s.recorder(run, c, "persistentvolume-controller"), Clock: clk, Log: s.log, Metrics: m, Registry: metrics,
			})
		})},
		{"pvc-protection-controller", with(func(c kubernetes.Interface, _ string) (runner, error) { return pvcprotection.New(c, f, clk, s.log, m) })},
		{"pv-protection-controller", with(func(c kubernetes.Interface, _ string) (runner, error) { return pvprotection.New(c, f, s.log, m) })},
		{"volumeattributesclass-protection-controller", with(func(c kubernetes.Interface, _ string) (runner, error) { return vacprotection.New(c, f, s.log, m) })},
		{"expand-controller", with(func(c kubernetes.Interface, _ string) (runner, error) {
			return expand.New(f, s.recorder(run, c, "volume_expand"), s.log, m)
		})},
		{"ephemeral-volume-controller", with(func(c kubernetes.Interface, _ string) (runner, error) {
			return ephemeralvolume.New(ephemeralvolume.Config{
				Client: c, Informers: f, Recorder: s.recorder(run, c, "ephemeral_volume"), Log: s.log, Metrics: m, Registry: metrics,
			})
		})},
		{"attachdetach-controller", with(func(c kubernetes.Interface, name string) (runner, error) {
			return attachdetach.New(attachdetach.Config{
				Client: c, Informers: f, Recorder: s.recorder(run, c, name), Clock: clk, Log: s.log, Metrics: m, Registry: metrics,
			})
		})},
		{"resource-claim-controller", with(func(c kubernetes.Interface, _ string) (runner, error) {
			return resourceclaim.New(resourceclaim.Config{
				Client: c, Informers: f, Recorder: s.recorder(run, c, "resource_claim"), Clock: clk, Log: s.log, Metrics: m, Registry: metrics,
			})
		})},
		{"device-taint-eviction-controller", with(func(c kubernetes.Interface, name string) (runner, error) {
			return devicetainteviction.New(c, f, s.recorder(run, c, name), clk, s.log, m)
		})},
		{"storage-version-migrator-controller", with(func(c kubernetes.Interface, name string) (runner, error) {
			mc, err := meta(name)
			if err != nil {
				return nil, err
			}
			return storagemigration.New(storagemigration.Config{Client: c, Metadata: mc, Informers: f, Resolve: p.migratable, Clock: clk, Log: s.log, Metrics: m})
		})},
		{"validatingadmissionpolicy-status-controller", with(func(c kubernetes.Interface, _ string) (runner, error) {
			return policystatus.New(c, f, s.log, m)
		})},
		{"generic-garbage-collector", func(name string) (runner, error) {
			mc, err := meta(name)
			if err != nil {
				return nil, err
			}
			c, err := p.client(account(name), controllerAgent(name))
			if err != nil {
				return nil, err
			}
			gc, err := garbagecollector.New(garbagecollector.Config{
				Metadata: mc, Resources: p.collectable(f, sources), Resolve: p.resolve, Recorder: s.recorder(run, c, "garbage-collector-controller"), Log: s.log, Metrics: m,
			})
			if err != nil {
				return nil, err
			}
			return withCustoms{gc, p.api.Customs(), custom.Follower{
				Changed: gc.Changed,
				Deleted: func(_ schema.GroupVersionResource, obj metav1.Object) { gc.Deleted(obj) },
			}}, nil
		}},
	}
}

// nodeRanges are the ranges of pods and how large the part of a node is.
func (s *Server) nodeRanges() ([]nodeipam.Range, error) {
	pods, err := s.cfg.ClusterCIDRs()
	if err != nil {
		return nil, err
	}
	var out []nodeipam.Range
	for _, p := range pods {
		out = append(out, nodeipam.Range{Prefix: p, Bits: s.cfg.NodeCIDRBits(p)})
	}
	return out, nil
}

// reservedPorts are those that nodes need for themselves, so that no service may take them away. Agents have the same, unless somebody sets others there.
func (s *Server) reservedPorts() map[loadbalancer.Port]string {
	out := map[loadbalancer.Port]string{
		{Protocol: corev1.ProtocolTCP, Number: int32(s.cfg.HTTPSPort)}:   "the API",
		{Protocol: corev1.ProtocolTCP, Number: int32(s.cfg.KubeletPort)}: "the node's API",
		{Protocol: corev1.ProtocolTCP, Number: config.ProxyHealthPort}:   "health of the service proxy",
		{Protocol: corev1.ProtocolUDP, Number: mesh.Port}:                "the network between nodes",
	}
	if port := s.cfg.WireGuard(); port != 0 {
		out[loadbalancer.Port{Protocol: corev1.ProtocolUDP, Number: int32(port)}] = "the network between nodes"
	}
	return out
}

// withCustoms is a controller that is told of custom objects too.
type withCustoms struct {
	runner
	customs  *custom.Registry
	follower custom.Follower
}

// Run runs the controller until ctx ends.
func (c withCustoms) Run(ctx context.Context) error {
	var following sync.WaitGroup
	defer following.Wait()
	following.Go(func() { c.customs.Follow(ctx, c.follower) })
	return c.runner.Run(ctx)
}

// collectable are the resources whose objects the garbage collector watches, with the informers that others share.
func (p *controlPlane) collectable(f *informers.Factory, sources []client.Source) []garbagecollector.Resource {
	var out []garbagecollector.Resource
	for _, src := range sources {
		k, ok := p.catalogue.ByGroupResource(src.GroupResource)
		if !ok || !slices.Contains(k.ResourceVerbs(), "delete") {
			continue
		}
		out = append(out, garbagecollector.Resource{GVR: preferred(k), Kind: k.Kind, Informer: client.InformerFor(f, src)})
	}
	return out
}

// countable are the resources whose objects quotas count, with the informers that others share.
func (p *controlPlane) countable(f *informers.Factory, sources []client.Source) []resourcequota.Resource {
	var out []resourcequota.Resource
	for _, src := range sources {
		if k, ok := p.catalogue.ByGroupResource(src.GroupResource); ok && k.Namespaced {
			out = append(out, resourcequota.Resource{GroupResource: src.GroupResource, Informer: client.InformerFor(f, src)})
		}
	}
	return out
}

// countedApart finds the custom resources that quotas count.
func (p *controlPlane) countedApart(gr schema.GroupResource) (schema.GroupVersionResource, bool) {
	served, ok := p.api.Customs().Find(gr)
	if !ok || !served.Namespaced() || len(served.Versions()) == 0 {
		return schema.GroupVersionResource{}, false
	}
	return gr.WithVersion(served.Versions()[0].Name()), true
}

// preferred is the resource in the version that is served first.
func preferred(k *api.Kind) schema.GroupVersionResource {
	return k.GroupResource().WithVersion(k.Versions[0].Version)
}

// namespacedResources are those that a namespace is emptied of. The error says whose are not known now, because another server does not answer.
func (p *controlPlane) namespacedResources() ([]schema.GroupVersionResource, error) {
	var out []schema.GroupVersionResource
	for _, k := range p.catalogue.Kinds() {
		if k.Namespaced && !k.Virtual && slices.Contains(k.ResourceVerbs(), "deletecollection") {
			out = append(out, preferred(k))
		}
	}
	out = append(out, p.api.Customs().Namespaced()...)
	foreign, unknown := p.aggregator.Namespaced()
	if out = append(out, foreign...); len(unknown) == 0 {
		return out, nil
	}
	failed := &discovery.ErrGroupDiscoveryFailed{Groups: map[schema.GroupVersion]error{}}
	for _, gv := range unknown {
		failed.Groups[gv] = fmt.Errorf("stale GroupVersion discovery: %v", gv)
	}
	return out, failed
}

// resolve finds the resource that an owner reference names.
func (p *controlPlane) resolve(gvk schema.GroupVersionKind) (schema.GroupVersionResource, bool, bool) {
	k, _, ok := p.catalogue.ByKind(gvk)
	if !ok {
		return p.api.Customs().ByKind(gvk)
	}
	if k.Virtual {
		return schema.GroupVersionResource{}, false, false
	}
	return preferred(k), k.Namespaced, true
}

// resourceOf finds the resource of a kind in the version that is served first.
func (p *controlPlane) resourceOf(gk schema.GroupKind) (schema.GroupVersionResource, bool) {
	for _, k := range p.catalogue.Kinds() {
		if k.Group == gk.Group && k.Kind == gk.Kind {
			return preferred(k), true
		}
	}
	defined, _ := p.api.Customs().Definitions(gk.Group)
	for _, d := range defined {
		for _, v := range d.Versions() {
			if gvr, _, ok := p.api.Customs().ByKind(gk.WithVersion(v.Name())); ok {
				return gvr, true
			}
		}
	}
	return schema.GroupVersionResource{}, false
}

// migratable finds a resource whose objects are stored, in a version in which it is served.
func (p *controlPlane) migratable(gr schema.GroupResource) (schema.GroupVersionResource, bool) {
	if k, ok := p.catalogue.ByGroupResource(gr); ok {
		return preferred(k), !k.Virtual && slices.Contains(k.ResourceVerbs(), "patch")
	}
	served, ok := p.api.Customs().Find(gr)
	if !ok || len(served.Versions()) == 0 {
		return schema.GroupVersionResource{}, false
	}
	return gr.WithVersion(served.Versions()[0].Name()), true
}
