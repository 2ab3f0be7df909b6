package persistentvolume

import (
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/controller"
)

// Operations that are measured, as upstream names them.
const (
	provisionOperation = "provision"
	deleteOperation    = "delete"

	unknownPlugin = "N/A"
)

// operations measures, under upstream's names, how long it takes to provision a claim's volume, until the two are bound, and to delete a volume,
// until its object is gone: mostly others' work, of which only the beginning and the end are seen here.
type operations struct {
	clock   clock.PassiveClock
	errors  *controller.Counter
	seconds *controller.Histogram

	mu    sync.Mutex
	begun map[string]operation // guarded by mu; by what is done and the name of the claim or volume
}

type operation struct {
	plugin string
	since  time.Time
}

func newOperations(m *controller.Metrics, c clock.PassiveClock) *operations {
	labels := []string{"plugin_name", "operation_name"}
	return &operations{
		clock:  c,
		begun:  map[string]operation{},
		errors: m.Counter("volume_operation_errors_total", "Failures of operations on volumes.", labels...),
		seconds: m.Histogram("volume_operation_total_seconds", "How long operations on volumes took from end to end.",
			[]float64{.1, .25, .5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600}, labels...),
	}
}

// begin notes that what is to be done, unless it has begun already.
func (o *operations) begin(what, name, plugin string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.begun[what+" "+name]; !ok {
		o.begun[what+" "+name] = operation{plugin, o.clock.Now()}
	}
}

// failed counts an attempt in vain of what has begun. It goes on.
func (o *operations) failed(what, name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if op, ok := o.begun[what+" "+name]; ok {
		o.errors.Inc(op.plugin, what)
	}
}

// end measures what has begun, and is done.
func (o *operations) end(what, name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if op, ok := o.begun[what+" "+name]; ok {
		o.seconds.Observe(o.clock.Since(op.since).Seconds(), op.plugin, what)
		delete(o.begun, what+" "+name)
	}
}

// forget says that nobody waits for the end any more.
func (o *operations) forget(what, name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.begun, what+" "+name)
}

// deleterOf names who deletes what is behind a volume. Volumes may name anybody as their maker; their classes are few.
func (c *Controller) deleterOf(v *corev1.PersistentVolume) string {
	switch {
	case deletedElsewhere(v):
		class, err := c.classes.Get(volumehelpers.GetPersistentVolumeClass(v))
		if err != nil {
			return unknownPlugin
		}
		if driver, ok := migrated[class.Provisioner]; ok {
			return driver
		}
		return class.Provisioner
	case v.Spec.HostPath != nil:
		return pluginOf(v)
	}
	return unknownPlugin
}

// deletedElsewhere tells whether a volume is deleted by whoever made it, or whose driver it names: he sees the phase.
func deletedElsewhere(v *corev1.PersistentVolume) bool {
	if by := v.Annotations[volumehelpers.AnnDynamicallyProvisioned]; by != "" {
		_, isOld := migrated[by]
		return isOld || !strings.HasPrefix(by, "kubernetes.io/")
	}
	_, moved := v.Annotations[volumehelpers.AnnMigratedTo]
	return moved || v.Spec.CSI != nil
}
