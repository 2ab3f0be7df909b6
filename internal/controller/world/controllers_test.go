package world

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"go/parser"
	"go/token"
	"log/slog"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client"
	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
	"github.com/celox/celox/internal/controller/attachdetach"
	"github.com/celox/celox/internal/controller/bootstrapsigner"
	"github.com/celox/celox/internal/controller/certificates"
	"github.com/celox/celox/internal/controller/clusterroleaggregation"
	"github.com/celox/celox/internal/controller/controllertest"
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
	"github.com/celox/celox/internal/scheduler"
)

// runner is a controller.
type runner interface {
	Run(ctx context.Context) error
}

// quiet is a recorder for who has nobody to tell.
var quiet = &record.FakeRecorder{}

// authority signs certificates in all worlds: making one is slow, and its key is no secret.
var authority = sync.OnceValues(func() (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return cert, key
})

// outside measures everything as ten.
type outside struct{}

func (outside) Resource(context.Context, string, labels.Selector, corev1.ResourceName, string) (podautoscaler.Samples, error) {
	return nil, nil
}

func (outside) Pods(context.Context, string, string, labels.Selector, labels.Selector) (podautoscaler.Samples, error) {
	return nil, nil
}

func (outside) Object(context.Context, string, string, *autoscalingv2.CrossVersionObjectReference, labels.Selector) (int64, error) {
	return 10_000, nil
}

func (outside) External(context.Context, string, string, labels.Selector) ([]int64, error) {
	return []int64{10_000}, nil
}

// parts makes controllers in one process.
type parts struct {
	t     *testing.T
	env   *controllertest.Env
	c     kubernetes.Interface
	meta  metadata.Interface
	f     *informers.Factory
	clock clock.WithTicker
	log   *slog.Logger
	m     *controller.Metrics
	// registry is what m and all others count for.
	registry *prometheus.Registry
	all      []runner
}

func (p *parts) add(r runner, err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
	p.all = append(p.all, r)
}

// resolve finds the resource of a kind.
func (p *parts) resolve(gvk schema.GroupVersionKind) (schema.GroupVersionResource, bool, bool) {
	k, _, ok := p.env.Catalogue.ByKind(gvk)
	if !ok || k.Virtual {
		return schema.GroupVersionResource{}, false, false
	}
	return controllertest.Preferred(k), k.Namespaced, true
}

// resources are all that are stored, and can be deleted, with their informers.
func (p *parts) resources(is func(gvr schema.GroupVersionResource, kind string, namespaced bool, i cache.SharedIndexInformer)) {
	for _, src := range p.env.Sources {
		if k, ok := p.env.Catalogue.ByGroupResource(src.GroupResource); ok && slices.Contains(k.ResourceVerbs(), "delete") {
			is(controllertest.Preferred(k), k.Kind, k.Namespaced, client.InformerFor(p.f, src))
		}
	}
}

// workloads are the controllers of what runs in pods, and of what they are behind.
func (p *parts) workloads() {
	c, f, clk, log := p.c, p.f, p.clock, p.log
	p.add(deployment.New(c, f, quiet, clk, log, p.m))
	p.add(replicaset.New(c, f, quiet, clk, log, p.m))
	p.add(replicaset.NewReplication(c, f, quiet, clk, log, p.m))
	p.add(statefulset.New(c, f, quiet, clk, log, p.m))
	p.add(daemonset.New(c, f, quiet, clk, log, p.m))
	jobs, err := job.New(c, f, quiet, clk, log, p.m)
	p.add(jobs, err)
	jobs.Metrics = job.NewMetrics(p.registry)
	crons, err := cronjob.New(c, f, quiet, clk, log, p.m)
	p.add(crons, err)
	crons.Metrics = cronjob.NewMetrics(p.registry)
	p.add(ttlafterfinished.New(c, f, clk, log, p.m))
	p.add(disruption.New(c, f, disruption.NewWorkloads(f, nil), quiet, clk, log, p.m))
	scales := podautoscaler.NewAPI(c.Discovery().RESTClient(), func(gk schema.GroupKind) (schema.GroupVersionResource, bool) {
		gvr, _, ok := p.resolve(gk.WithVersion("v1"))
		return gvr, ok
	})
	p.add(podautoscaler.New(podautoscaler.Config{Client: c, Informers: f, Source: outside{}, Scales: scales, Recorder: quiet, Clock: clk, Log: log, Queue: p.m, Metrics: podautoscaler.NewMetrics(p.registry)}))
	p.add(endpoints.New(c, f, quiet, log, p.m))
	p.add(endpointslice.New(c, f, quiet, log, p.m))
	p.add(endpointslicemirroring.New(c, f, quiet, clk, log, p.m))
	p.add(loadbalancer.New(loadbalancer.Config{Client: c, Informers: f, Recorder: quiet, Log: log, Metrics: p.m}))
	p.add(ingressstatus.New(ingressstatus.Config{Client: c, Informers: f, Recorder: quiet, HTTPPort: 80, HTTPSPort: 443, Log: log, Metrics: p.m}))
	p.add(scheduler.New(scheduler.Config{Client: c, Informers: f, Recorder: &events.FakeRecorder{}, Log: log, Metrics: p.registry}))
}

// storage are the controllers of volumes and devices.
func (p *parts) storage() {
	c, f, clk, log := p.c, p.f, p.clock, p.log
	p.add(persistentvolume.New(persistentvolume.Config{Client: c, Informers: f, Recorder: quiet, Clock: clk, Log: log, Metrics: p.m, Registry: p.registry}))
	p.add(pvcprotection.New(c, f, clk, log, p.m))
	p.add(pvprotection.New(c, f, log, p.m))
	p.add(vacprotection.New(c, f, log, p.m))
	p.add(expand.New(f, quiet, log, p.m))
	p.add(ephemeralvolume.New(ephemeralvolume.Config{Client: c, Informers: f, Recorder: quiet, Log: log, Metrics: p.m, Registry: p.registry}))
	p.add(attachdetach.New(attachdetach.Config{Client: c, Informers: f, Recorder: quiet, Clock: clk, Log: log, Metrics: p.m, Registry: p.registry}))
	p.add(resourceclaim.New(resourceclaim.Config{Client: c, Informers: f, Recorder: quiet, Clock: clk, Log: log, Metrics: p.m, Registry: p.registry}))
	p.add(devicetainteviction.New(c, f, quiet, clk, log, p.m))
}

// cluster are the controllers of nodes, namespaces, accounts, certificates and of what is kept.
func (p *parts) cluster(judge bool) {
	c, f, clk, log := p.c, p.f, p.clock, p.log
	ca, key := authority()
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
	p.add(podgc.New(c, f, clk, log, p.m))
	p.add(podcertificate.NewCleaner(c, f, clk, log, p.m))
	if judge {
		p.add(tainteviction.New(c, f, quiet, clk, log, p.m))
		p.add(nodelifecycle.New(nodelifecycle.Config{Client: c, Informers: f, Recorder: quiet, Clock: clk, Log: log, Metrics: p.m, Registry: p.registry}))
	}
	p.add(nodeipam.New(nodeipam.Config{Client: c, Informers: f, Recorder: quiet, Ranges: []nodeipam.Range{{Prefix: netip.MustParsePrefix("10.42.0.0/16"), Bits: 24}}, Log: log, Metrics: p.m}))
	p.add(nodettl.New(c, f, log, p.m))
	p.add(serviceaccount.New(c, f, log, p.m))
	p.add(serviceaccounttoken.New(c, f, func(*corev1.ServiceAccount, *corev1.Secret) (string, error) { return "token", nil }, bundle, log, p.m))
	p.add(rootca.New(c, f, bundle, log, p.m))
	p.add(trustbundle.New(c, f, bundle, log, p.m))
	p.add(clusterroleaggregation.New(c, f, log, p.m))
	p.add(certificates.New(c, f, ca, key, clk, log, p.m))
	p.add(servingapproval.New(c, f, nil, log, p.m))
	p.add(bootstrapsigner.New(c, f, clk, log, p.m))
	p.add(tokencleaner.New(c, f, clk, log, p.m))
	p.add(legacytoken.NewTracker(c, f, clk, log, p.m))
	p.add(legacytoken.NewCleaner(c, f, clk, log, p.m))
	p.add(policystatus.New(c, f, log, p.m))
	p.add(servicecidr.New(c, f, log, p.m))
	p.add(ipaddress.New(c, f, log, p.m))
	p.add(storagemigration.New(storagemigration.Config{Client: c, Metadata: p.meta, Informers: f, Clock: clk, Log: log, Resolve: func(gr schema.GroupResource) (schema.GroupVersionResource, bool) {
		k, ok := p.env.Catalogue.ByGroupResource(gr)
		if !ok {
			return schema.GroupVersionResource{}, false
		}
		return controllertest.Preferred(k), true
	}}))
	var owned []garbagecollector.Resource
	var counted []resourcequota.Resource
	var inside []schema.GroupVersionResource
	var contents []cache.SharedIndexInformer
	p.resources(func(gvr schema.GroupVersionResource, kind string, namespaced bool, i cache.SharedIndexInformer) {
		owned = append(owned, garbagecollector.Resource{GVR: gvr, Kind: kind, Informer: i})
		if namespaced {
			counted = append(counted, resourcequota.Resource{GroupResource: gvr.GroupResource(), Informer: i})
			inside, contents = append(inside, gvr), append(contents, i)
		}
	})
	p.add(garbagecollector.New(garbagecollector.Config{Metadata: p.meta, Recorder: quiet, Log: log, Resources: owned, Resolve: p.resolve}))
	p.add(resourcequota.New(resourcequota.Config{Client: c, Metadata: p.meta, Informers: f, Resources: counted, Clock: clk, Log: log,
		Resolve: func(schema.GroupResource) (schema.GroupVersionResource, bool) {
			return schema.GroupVersionResource{}, false
		}}))
	p.add(namespace.New(c, p.meta, func() ([]schema.GroupVersionResource, error) { return inside, nil }, contents, f, clk, log, p.m))
}

// What dashboards show is counted, under upstream's names.
func TestMetricsHaveUpstreamsNames(t *testing.T) {
	t.Parallel()
	inWorld(t, 2, true, func(w *world) {
		for _, s := range scenarios() {
			if s.name == "Job" || s.name == "Node" || s.name == "Devices" || s.name == "Deployment" || s.name == "Network" || s.name == "Rest" {
				ns := "of-" + strings.ToLower(s.name)
				w.namespace(ns)
				w.play(&s, ns)
			}
		}
		w.namespace("served")
		createDeployment(w, "served")
		createService(w, "served")
		time.Sleep(time.Minute)
		synctest.Wait()
		families, err := w.process.Load().registry.Gather()
		w.must(err)
		have := map[string]bool{}
		for _, f := range families {
			have[f.GetName()] = true
		}
		for _, name := range strings.Fields(`
			workqueue_adds_total workqueue_depth workqueue_longest_running_processor_seconds workqueue_queue_duration_seconds workqueue_unfinished_work_seconds workqueue_work_duration_seconds
			scheduler_cache_size scheduler_framework_extension_point_duration_seconds scheduler_pending_pods scheduler_pod_scheduling_attempts scheduler_pod_scheduling_sli_duration_seconds
			scheduler_preemption_attempts_total scheduler_preemption_victims scheduler_queue_incoming_pods_total scheduler_schedule_attempts_total scheduler_scheduling_algorithm_duration_seconds
			scheduler_scheduling_attempt_duration_seconds
			endpoint_slice_controller_changes endpoint_slice_controller_desired_endpoint_slices endpoint_slice_controller_endpoints_added_per_sync
			endpoint_slice_controller_endpoints_desired endpoint_slice_controller_endpoints_removed_per_sync endpoint_slice_controller_endpointslices_changed_per_sync
			endpoint_slice_controller_num_endpoint_slices endpoint_slice_controller_syncs endpoint_slice_mirroring_controller_addresses_skipped_per_sync
			endpoint_slice_mirroring_controller_changes endpoint_slice_mirroring_controller_desired_endpoint_slices endpoint_slice_mirroring_controller_endpoints_added_per_sync
			endpoint_slice_mirroring_controller_endpoints_desired endpoint_slice_mirroring_controller_endpoints_removed_per_sync endpoint_slice_mirroring_controller_endpoints_sync_duration
			endpoint_slice_mirroring_controller_endpoints_updated_per_sync endpoint_slice_mirroring_controller_num_endpoint_slices node_collector_update_node_health_duration_seconds
			node_ipam_controller_cidrset_allocation_tries_per_request node_ipam_controller_cidrset_cidrs_allocations_total node_ipam_controller_cidrset_usage_cidrs
			node_ipam_controller_cirdset_max_cidrs
			device_taint_eviction_controller_pod_deletion_duration_seconds device_taint_eviction_controller_pod_deletions_total horizontal_pod_autoscaler_controller_metric_computation_duration_seconds
			horizontal_pod_autoscaler_controller_metric_computation_total horizontal_pod_autoscaler_controller_num_horizontal_pod_autoscalers
			job_controller_terminated_pods_tracking_finalizer_total
			horizontal_pod_autoscaler_controller_reconciliation_duration_seconds horizontal_pod_autoscaler_controller_reconciliations_total
			job_controller_job_finished_indexes_total job_controller_job_pods_creation_total job_controller_job_pods_finished_total job_controller_job_sync_duration_seconds
			job_controller_job_syncs_total job_controller_jobs_finished_total node_collector_unhealthy_nodes_in_zone node_collector_zone_health node_collector_zone_size
			pod_gc_collector_force_delete_pods_total dynamic_resource_allocation_resourceclaim_creates_total root_ca_cert_publisher_sync_duration_seconds root_ca_cert_publisher_sync_total
			replicaset_controller_sorting_deletion_age_ratio taint_eviction_controller_pod_deletion_duration_seconds taint_eviction_controller_pod_deletions_total`) {
			if !have[name] {
				t.Errorf("%s is not counted", name)
			}
		}
	})
}

// Every controller is in these worlds.
func TestAllControllersAreHere(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "controllers_test.go", nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	here := map[string]bool{}
	for _, i := range file.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if name, ok := strings.CutPrefix(path, "github.com/celox/celox/internal/controller/"); ok {
			here[name] = true
		}
	}
	all, err := filepath.Glob("../*/doc.go")
	if err != nil || len(all) < 40 {
		t.Fatal(all, err)
	}
	apart := []string{"controllertest", "owner", "pods", "revision", "world"} // what controllers share
	for _, f := range all {
		name := filepath.Base(filepath.Dir(f))
		src, err := os.ReadDir(filepath.Dir(f))
		if err != nil {
			t.Fatal(err)
		}
		if len(src) > 1 && !here[name] && !slices.Contains(apart, name) {
			t.Errorf("%s is in no world", name)
		}
	}
}
