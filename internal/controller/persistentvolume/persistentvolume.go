package persistentvolume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// Indices of the informers.
const (
	volumesByClaim    = "persistentvolume.claim"      // volumes by the namespace/name that they name
	volumesFreeByType = "persistentvolume.free"       // volumes that name no claim, by class
	claimsByVolume    = "persistentvolume.volume"     // claims by the volume that they name
	claimsFreeByClass = "persistentvolume.class"      // claims without a volume, by class
	podsUsingClaim    = "persistentvolume.podByClaim" // pods that have not ended, by the claims that they name
)

// Config is what a Controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers *informers.Factory
	Recorder  record.EventRecorder
	Clock     clock.PassiveClock
	Log       *slog.Logger
	Metrics   *controller.Metrics
	// Registry gets the counts of volumes and claims; nil counts nothing.
	Registry prometheus.Registerer
}

// Controller binds claims and volumes.
type Controller struct {
	client   kubernetes.Interface
	recorder record.EventRecorder
	clock    clock.PassiveClock

	volumes, claims, pods cache.Indexer
	podLister             corelisters.PodLister
	classes               storagelisters.StorageClassLister
	// newVolumes and newClaims are the informers' objects, or what this controller itself wrote since: its next decision must not fall behind its last.
	newVolumes, newClaims cache.MutationCache

	volumeLoop, claimLoop *controller.Loop
	told                  told

	assigned, unassigned *controller.Counter
	operations           *operations
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(cfg Config) (*Controller, error) {
	f := cfg.Informers
	volumes, claims, pods, classes := f.Core().V1().PersistentVolumes(), f.Core().V1().PersistentVolumeClaims(), f.Core().V1().Pods(), f.Storage().V1().StorageClasses()
	if err := errors.Join(
		volumes.Informer().AddIndexers(cache.Indexers{
			volumesByClaim:    index(func(v *corev1.PersistentVolume) []string { return claimOf(v) }),
			volumesFreeByType: index(freeByClass),
		}),
		claims.Informer().AddIndexers(cache.Indexers{
			claimsByVolume: index(func(c *corev1.PersistentVolumeClaim) []string {
				if c.Spec.VolumeName == "" {
					return nil
				}
				return []string{c.Spec.VolumeName}
			}),
			claimsFreeByClass: index(func(c *corev1.PersistentVolumeClaim) []string {
				if isBound(c) || c.Spec.VolumeName != "" {
					return nil
				}
				return []string{volumehelpers.GetPersistentVolumeClaimClass(c)}
			}),
		}),
		pods.Informer().AddIndexers(cache.Indexers{podsUsingClaim: index(claimsOf)}),
	); err != nil {
		return nil, fmt.Errorf("persistentvolume: %w", err)
	}
	c := &Controller{
		client: cfg.Client, recorder: cfg.Recorder, clock: cfg.Clock,
		volumes: volumes.Informer().GetIndexer(), claims: claims.Informer().GetIndexer(), pods: pods.Informer().GetIndexer(),
		podLister: pods.Lister(), classes: classes.Lister(),
		told: told{last: map[string]notice{}}, operations: newOperations(cfg.Metrics, cfg.Clock),
	}
	c.assigned = cfg.Metrics.Counter("retroactive_storageclass_total", "Claims without a class that were to get the default one.")
	c.unassigned = cfg.Metrics.Counter("retroactive_storageclass_errors_total", "Claims without a class that could not get the default one.")
	c.newVolumes = latest(volumes.Informer())
	c.newClaims = latest(claims.Informer())
	o := controller.Options{
		// One of each, as every binding changes what the next one can choose from.
		Workers: 1, Log: cfg.Log, Metrics: cfg.Metrics,
		Synced: []cache.InformerSynced{volumes.Informer().HasSynced, claims.Informer().HasSynced, pods.Informer().HasSynced, classes.Informer().HasSynced},
	}
	c.volumeLoop = controller.NewLoop("volumes", c.reconcileVolume, o)
	c.claimLoop = controller.NewLoop("claims", c.reconcileClaim, o)
	if cfg.Registry != nil {
		if err := cfg.Registry.Register(&counts{volumes: c.volumes, claims: c.claims}); err != nil {
			return nil, fmt.Errorf("persistentvolume: %w", err)
		}
	}
	class := func(class *storagev1.StorageClass) { c.queueFree(class.Name); c.queueFree("") }
	if err := errors.Join(
		controller.Watch(volumes.Informer(), controller.Handlers[*corev1.PersistentVolume]{Changed: c.volumeChanged, Delete: c.volumeDeleted}),
		controller.Watch(claims.Informer(), controller.Handlers[*corev1.PersistentVolumeClaim]{Changed: c.claimChanged, Delete: c.claimDeleted}),
		controller.Watch(classes.Informer(), controller.Handlers[*storagev1.StorageClass]{Changed: class, Delete: class}),
		controller.Watch(pods.Informer(), controller.Handlers[*corev1.Pod]{Changed: c.podChanged, Delete: c.podGone}),
	); err != nil {
		return nil, fmt.Errorf("persistentvolume: %w", err)
	}
	return c, nil
}

func latest(i cache.SharedIndexInformer) cache.MutationCache {
	return cache.NewIntegerResourceVersionMutationCache(klog.Background(), i.GetStore(), i.GetIndexer(), cacheTTL, false)
}

// index makes an index function of one for objects of type T.
func index[T any](keys func(T) []string) cache.IndexFunc {
	return func(obj any) ([]string, error) {
		t, ok := obj.(T)
		if !ok {
			return nil, nil
		}
		return keys(t), nil
	}
}

// claimOf is the key of the claim that a volume names; none if it names none.
func claimOf(v *corev1.PersistentVolume) []string {
	if v.Spec.ClaimRef == nil {
		return nil
	}
	return []string{v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name}
}

func freeByClass(v *corev1.PersistentVolume) []string {
	if v.Spec.ClaimRef != nil {
		return nil
	}
	return []string{volumehelpers.GetPersistentVolumeClass(v)}
}

// claimsOf are the keys of the claims of a pod that has not ended.
func claimsOf(p *corev1.Pod) []string {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil
	}
	var out []string
	for i := range p.Spec.Volumes {
		out = append(out, claimOfPod(p, &p.Spec.Volumes[i])...)
	}
	return out
}

// claimOfPod is the key of the claim behind a pod's volume; none if it is of another kind.
func claimOfPod(p *corev1.Pod, v *corev1.Volume) []string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return []string{p.Namespace + "/" + v.PersistentVolumeClaim.ClaimName}
	case v.Ephemeral != nil:
		return []string{p.Namespace + "/" + ephemeral.VolumeClaimName(p, v)}
	}
	return nil
}

// Run binds until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	errs := make([]error, 2)
	loops.Go(func() { errs[0] = c.volumeLoop.Run(ctx) })
	loops.Go(func() { errs[1] = c.claimLoop.Run(ctx) })
	loops.Wait()
	return errors.Join(errs...)
}

func (c *Controller) volumeChanged(v *corev1.PersistentVolume) {
	c.volumeLoop.Add(v.Name)
	for _, k := range claimOf(v) {
		c.claimLoop.Add(k)
	}
	c.queueNaming(v.Name)
	if v.Spec.ClaimRef == nil && v.Status.Phase == corev1.VolumeAvailable {
		c.queueFree(volumehelpers.GetPersistentVolumeClass(v))
	}
}

func (c *Controller) volumeDeleted(v *corev1.PersistentVolume) {
	c.told.forget(string(v.UID))
	c.operations.end(deleteOperation, v.Name)
	for _, k := range claimOf(v) {
		c.claimLoop.Add(k)
	}
	c.queueNaming(v.Name)
}

func (c *Controller) claimChanged(claim *corev1.PersistentVolumeClaim) {
	c.claimLoop.AddObject(claim)
	c.queueVolumes(claim)
}

func (c *Controller) claimDeleted(claim *corev1.PersistentVolumeClaim) {
	c.told.forget(string(claim.UID))
	c.operations.forget(provisionOperation, key(claim))
	c.queueVolumes(claim)
}

// queueVolumes has those volumes looked at that the claim names or that name the claim.
func (c *Controller) queueVolumes(claim *corev1.PersistentVolumeClaim) {
	if claim.Spec.VolumeName != "" {
		c.volumeLoop.Add(claim.Spec.VolumeName)
	}
	names, _ := c.volumes.IndexKeys(volumesByClaim, key(claim)) // the index is there
	for _, n := range names {
		c.volumeLoop.Add(n)
	}
}

// queueNaming has the claims looked at that name the volume.
func (c *Controller) queueNaming(volume string) {
	keys, _ := c.claims.IndexKeys(claimsByVolume, volume) // the index is there
	for _, k := range keys {
		c.claimLoop.Add(k)
	}
}

// queueFree has the claims of a class looked at that have no volume.
func (c *Controller) queueFree(class string) {
	keys, _ := c.claims.IndexKeys(claimsFreeByClass, class) // the index is there
	for _, k := range keys {
		c.claimLoop.Add(k)
	}
}

func (c *Controller) volume(name string) (*corev1.PersistentVolume, bool) {
	obj, ok, err := c.newVolumes.GetByKey(name)
	if err != nil || !ok {
		return nil, false
	}
	v, ok := obj.(*corev1.PersistentVolume)
	return v, ok
}

func (c *Controller) claim(key string) (*corev1.PersistentVolumeClaim, bool) {
	obj, ok, err := c.newClaims.GetByKey(key)
	if err != nil || !ok {
		return nil, false
	}
	claim, ok := obj.(*corev1.PersistentVolumeClaim)
	return claim, ok
}

// match looks among the volumes that name the claim and those of its class that are free.
func (c *Controller) match(claim *corev1.PersistentVolumeClaim, delayed bool) (*corev1.PersistentVolume, error) {
	var candidates []*corev1.PersistentVolume
	look := func(name, value string) error {
		found, err := c.newVolumes.ByIndex(name, value)
		for _, obj := range found {
			if v, ok := obj.(*corev1.PersistentVolume); ok {
				candidates = append(candidates, v)
			}
		}
		return err
	}
	err := look(volumesByClaim, key(claim))
	if err == nil && !delayed {
		err = look(volumesFreeByType, volumehelpers.GetPersistentVolumeClaimClass(claim))
	}
	if err != nil {
		return nil, fmt.Errorf("look for volumes: %w", err)
	}
	slices.SortFunc(candidates, func(a, b *corev1.PersistentVolume) int { return compareNames(a, b) })
	return bestMatch(claim, candidates, delayed)
}

func compareNames(a, b metav1.Object) int {
	switch {
	case a.GetName() < b.GetName():
		return -1
	case a.GetName() > b.GetName():
		return 1
	}
	return 0
}

func (c *Controller) surroundings() surroundings {
	return surroundings{
		volume: c.volume,
		match:  c.match,
		class:  c.classes.Get,
		fallback: func() *storagev1.StorageClass {
			all, err := c.classes.List(labels.Everything())
			if err != nil {
				return nil
			}
			return newestDefault(all)
		},
		waiting: func(claim *corev1.PersistentVolumeClaim) []string {
			found, _ := c.pods.ByIndex(podsUsingClaim, key(claim)) // the index is there
			var names []string
			for _, obj := range found {
				if p, ok := obj.(*corev1.Pod); ok && p.Spec.NodeName == "" {
					names = append(names, p.Name)
				}
			}
			slices.Sort(names)
			return names
		},
	}
}

// told remembers what was last said about an object, so that looking again, because something near it changed, says nothing new.
type told struct {
	mu   sync.Mutex // guards last
	last map[string]notice
}

func (t *told) forget(uid string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.last, uid)
}

// isNews notes what is said, and tells whether it was not the last word already.
func (t *told) isNews(uid string, n notice) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last[uid] == n {
		return false
	}
	t.last[uid] = n
	return true
}
