package dra

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"
	drapbv1beta1 "k8s.io/kubelet/pkg/apis/dra/v1beta1"

	"github.com/celox/celox/internal/node/plugins"
)

const (
	// callTimeout is how long a driver may take, as in upstream.
	callTimeout = 45 * time.Second
	// wipeDelay is how long a driver may be gone before what it published is deleted: it may be being updated.
	wipeDelay = 30 * time.Second
)

// driver is a plugin that serves.
type driver struct {
	plugin plugins.Plugin
	conn   *grpc.ClientConn
	client drapb.DRAPluginClient

	health  string              // the service that tells of the health of its devices; "": it doesn't
	hush    context.CancelFunc  // ends listening to it
	reports map[deviceID]report // what it said of its devices; guarded by drivers.mu
}

// drivers are those that are registered.
type drivers struct {
	wg sync.WaitGroup // those who listen; none comes once it is closed
	mu sync.Mutex     // guards what follows; may be taken while Manager.mu is held, not the other way round
	// byName are the instances of each; the newest is the last. There are two while one is being updated.
	byName  map[string][]*driver
	missing map[string]time.Time // when what drivers published is to be deleted
	closed  bool
}

func (ds *drivers) init() {
	ds.byName, ds.missing = map[string][]*driver{}, map[string]time.Time{}
}

// Register implements plugins.Handler.
func (m *Manager) Register(p plugins.Plugin) error {
	if p.Name == "" {
		return errors.New("DRA driver name is empty")
	}
	version := ""
	for _, v := range []string{drapb.DRAPluginService, drapbv1beta1.DRAPluginService} {
		if slices.Contains(p.Versions, v) {
			version = v
			break
		}
	}
	if version == "" {
		return fmt.Errorf("DRA driver %s supports none of the services that this node speaks (%s, %s): %v", p.Name, drapb.DRAPluginService, drapbv1beta1.DRAPluginService, p.Versions)
	}
	conn, err := grpc.NewClient("unix://"+p.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("DRA driver %s: %w", p.Name, err)
	}
	client := drapb.NewDRAPluginClient(conn)
	if version == drapbv1beta1.DRAPluginService { // the older words for the same
		client = drapbv1beta1.V1Beta1ClientWrapper{DRAPluginClient: drapbv1beta1.NewDRAPluginClient(conn)}
	}
	ctx, hush := context.WithCancel(context.Background())
	d := &driver{plugin: p, conn: conn, client: client, health: healthService(p.Versions), hush: hush, reports: map[deviceID]report{}}
	if !m.drivers.add(d, func() { m.listen(ctx, d) }) {
		hush()
		return errors.Join(fmt.Errorf("DRA driver %s: the node is stopping", p.Name), conn.Close())
	}
	m.poke() // somebody may have waited for it
	return nil
}

// add adds a driver, and has it listened to if it tells. It says no when it is too late for that.
func (ds *drivers) add(d *driver, listen func()) bool {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if ds.closed {
		return false
	}
	name := d.plugin.Name
	ds.byName[name] = append(ds.byName[name], d)
	delete(ds.missing, name)
	if d.health != "" {
		ds.wg.Go(listen)
	}
	return true
}

// Deregister implements plugins.Handler.
func (m *Manager) Deregister(p plugins.Plugin) {
	ds := &m.drivers
	ds.mu.Lock()
	list := ds.byName[p.Name]
	if i := slices.IndexFunc(list, func(d *driver) bool { return d.plugin.Endpoint == p.Endpoint }); i >= 0 {
		list[i].hush()
		if err := list[i].conn.Close(); err != nil {
			m.cfg.Log.Debug("close the connection of a driver", "driver", p.Name, "error", err)
		}
		ds.byName[p.Name] = slices.Delete(list, i, i+1)
	}
	if len(ds.byName[p.Name]) == 0 {
		delete(ds.byName, p.Name)
		ds.missing[p.Name] = m.cfg.Clock.Now().Add(wipeDelay)
	}
	ds.mu.Unlock()
	m.poke()
}

func (ds *drivers) get(name string) (*driver, error) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	list := ds.byName[name]
	if len(list) == 0 {
		return nil, fmt.Errorf("DRA driver %s is not registered", name)
	}
	return list[len(list)-1], nil
}

func (ds *drivers) miss(name string, now time.Time) { ds.missAgain(name, now.Add(wipeDelay)) }

func (ds *drivers) missAgain(name string, at time.Time) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if len(ds.byName[name]) == 0 {
		ds.missing[name] = at
	}
}

// due are the drivers that have been gone for long enough; they are forgotten. next is how long it is to the next one, 0 if there is none.
func (ds *drivers) due(now time.Time) (out []string, next time.Duration) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for name, at := range ds.missing {
		if left := at.Sub(now); left > 0 {
			if next == 0 || left < next {
				next = left
			}
			continue
		}
		delete(ds.missing, name)
		out = append(out, name)
	}
	return out, next
}

func (ds *drivers) registered(name string) bool {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	return len(ds.byName[name]) > 0
}

// close ends all connections and waits for those who listen.
func (ds *drivers) close() {
	ds.mu.Lock()
	ds.closed = true
	for _, list := range ds.byName {
		for _, d := range list {
			d.hush()
			_ = d.conn.Close() // the process ends, or the node does
		}
	}
	clear(ds.byName)
	ds.mu.Unlock()
	ds.wg.Wait()
}

// wipe deletes what a driver published for this node, or all drivers that aren't registered if the name is empty.
func (m *Manager) wipe(ctx context.Context, name string) error {
	api := m.cfg.Client.ResourceV1().ResourceSlices()
	selector := fields.Set{resourcev1.ResourceSliceSelectorNodeName: m.cfg.NodeName}
	if name != "" {
		selector[resourcev1.ResourceSliceSelectorDriver] = name
	}
	list, err := api.List(ctx, metav1.ListOptions{FieldSelector: selector.String()})
	if err != nil {
		return err
	}
	for i := range list.Items {
		s := &list.Items[i]
		if s.Spec.NodeName == nil || *s.Spec.NodeName != m.cfg.NodeName || name != "" && s.Spec.Driver != name || m.drivers.registered(s.Spec.Driver) {
			continue
		}
		m.cfg.Log.Info("the driver is gone: deleting its ResourceSlice", "slice", s.Name, "driver", s.Spec.Driver)
		if err := api.Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	return nil
}
