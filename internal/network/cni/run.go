package cni

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/fsnotify/fsnotify"
)

// Run follows the configuration, asks the plugins how they are, and takes down what could not be, until ctx ends.
func (n *Network) Run(ctx context.Context) error {
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("cni: follow configurations: %w", err)
	}
	defer watch.Close()
	var said string
	follow := func() {
		// What isn't watched could not be found when it comes.
		text := ""
		if err := n.follow(watch); err != nil {
			text = err.Error()
			if text != said {
				n.cfg.Log.Warn("cni: follow configurations", "err", err)
			}
		}
		said = text
	}
	follow()
	n.reload(ctx)
	for {
		due := n.work(ctx)
		var timer <-chan time.Time
		stop := func() bool { return false }
		if !due.IsZero() {
			t := time.NewTimer(time.Until(due))
			timer, stop = t.C, t.Stop
		}
		select {
		case <-ctx.Done():
			stop()
			return nil
		case e := <-watch.Events:
			if n.concerns(e) {
				follow()
				n.reload(ctx)
			}
		case err := <-watch.Errors: // such as events that were too many
			n.cfg.Log.Warn("cni: follow configurations", "err", err)
			n.reload(ctx)
		case <-timer:
			if n.Ready() != nil || n.asks() {
				n.reload(ctx)
			}
		case <-n.wake:
			if n.asks() {
				n.reload(ctx)
			}
		}
		stop()
	}
}

// follow watches the directories, which it makes if they aren't there.
func (n *Network) follow(watch *fsnotify.Watcher) error {
	if n.cfg.ConfDir == "" {
		return nil
	}
	var errs []error
	for _, dir := range append([]string{n.cfg.ConfDir}, n.cfg.BinDirs...) {
		if slices.Contains(watch.WatchList(), dir) {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, watch.Add(dir))
	}
	return errors.Join(errs...)
}

// concerns says whether an event may change the network: of configurations all, of plugins those that come while one is missing.
func (n *Network) concerns(e fsnotify.Event) bool {
	if e.Name == n.cfg.ConfDir || slices.Contains(n.cfg.BinDirs, e.Name) {
		return true // the directory itself went away
	}
	if filepath.Dir(e.Name) == n.cfg.ConfDir {
		return e.Op != fsnotify.Chmod || n.Ready() != nil
	}
	return n.Ready() != nil && !e.Has(fsnotify.Write)
}

// asks says whether the plugins can tell how they are; that came with CNI 1.1.0.
func (n *Network) asks() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.conf != nil && tells(n.conf)
}

func tells(list *libcni.NetworkConfigList) bool {
	ok, err := version.GreaterThanOrEqualTo(list.CNIVersion, "1.1.0")
	return err == nil && ok
}

// reload reads the configuration and asks its plugins whether they are there and well.
func (n *Network) reload(ctx context.Context) {
	conf, err := load(n.cfg.ConfDir)
	if err == nil {
		err = n.well(ctx, conf)
	}
	if ctx.Err() != nil {
		return // the end
	}
	n.mu.Lock()
	old, was := n.conf, n.problem
	n.conf, n.problem = conf, err
	changed := old != nil && conf != nil && string(old.Bytes) != string(conf.Bytes)
	if conf != nil && (old == nil || old.Name != conf.Name) {
		n.collect = true
	}
	n.mu.Unlock()
	switch {
	case err != nil && (was == nil || was.Error() != err.Error()):
		n.cfg.Log.Warn("cni: the network is not ready", "err", err)
	case err == nil && (was != nil || changed):
		n.cfg.Log.Info("cni: the network is ready", "network", conf.Name)
		n.advise(ctx, conf)
	}
	if (err == nil) != (was == nil) || err != nil && err.Error() != was.Error() {
		n.cfg.Changed()
	}
}

// well says why the plugins of a configuration can't work, if they say so or aren't there.
func (n *Network) well(ctx context.Context, conf *libcni.NetworkConfigList) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	find := (&runner{}).FindInPath
	for _, p := range conf.Plugins {
		if _, err := find(p.Network.Type, n.cfg.BinDirs); err != nil {
			return fmt.Errorf("%w: network %q: %w", errUninitialized, conf.Name, err)
		}
	}
	if err := n.cni.GetStatusNetworkList(ctx, conf); err != nil && !unknownCommand(err) {
		return fmt.Errorf("network %q: %w", conf.Name, err)
	}
	return nil
}

// unknownCommand says whether a plugin does not know what it was asked: not every one that says that it speaks CNI 1.1.0 does so in full.
func unknownCommand(err error) bool {
	var e *types.Error
	return errors.As(err, &e) && e.Code == types.ErrInvalidEnvironmentVariables
}

// advise says what the plugins' versions promise to go wrong (VERSION). It is no reason not to try: there are plugins that don't answer.
func (n *Network) advise(ctx context.Context, conf *libcni.NetworkConfigList) {
	ctx, cancel := limited(ctx)
	defer cancel()
	if _, err := n.cni.ValidateNetworkList(ctx, conf); err != nil {
		n.cfg.Log.Warn("cni: the plugins may not suit the configuration", "network", conf.Name, "err", err)
	}
}

// work takes down what is to be, tells plugins what there is, and returns when there is more to do; the zero time is never.
func (n *Network) work(ctx context.Context) time.Time {
	now := time.Now()
	n.mu.Lock()
	var due []string
	for id, a := range n.stale {
		if !a.due.After(now) {
			due = append(due, id)
		}
	}
	n.mu.Unlock()
	slices.Sort(due)
	for _, id := range due {
		n.again(ctx, id)
	}
	n.garbage(ctx)
	var next time.Time
	n.mu.Lock()
	defer n.mu.Unlock()
	earlier := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, a := range n.stale {
		earlier(a.due)
	}
	if n.conf != nil && tells(n.conf) {
		if n.problem != nil {
			earlier(time.Now().Add(n.clock.unwell))
		} else {
			earlier(time.Now().Add(n.clock.well))
		}
	}
	return next
}

// again takes a sandbox down that could not be before.
func (n *Network) again(ctx context.Context, id string) {
	release, err := n.acquire(ctx, id)
	if err != nil {
		return // the end
	}
	defer release()
	n.mu.Lock()
	r, wanted := n.records[id], n.stale[id] != nil
	if r == nil {
		delete(n.stale, id)
	}
	n.mu.Unlock()
	if r == nil || !wanted {
		return
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	if err := n.remove(ctx, r); err != nil {
		n.cfg.Log.Warn("cni: take down sandbox; trying again", "sandbox", id, "pod", r.Pod, "err", err)
	}
}

// garbage tells plugins which sandboxes there are, once, so that they forget all others.
func (n *Network) garbage(ctx context.Context) {
	n.mu.Lock()
	conf := n.conf
	if !n.collect || conf == nil || n.problem != nil {
		n.mu.Unlock()
		return
	}
	n.mu.Unlock()
	n.alone.Lock()
	defer n.alone.Unlock()
	n.mu.Lock()
	n.collect = false
	valid := []types.GCAttachment{}
	for id := range n.records {
		valid = append(valid, types.GCAttachment{ContainerID: id, IfName: interfaceName})
	}
	n.mu.Unlock()
	ctx, cancel := limited(ctx)
	defer cancel()
	if err := n.cni.GCNetworkList(ctx, conf, &libcni.GCArgs{ValidAttachments: valid}); err != nil {
		n.cfg.Log.Warn("cni: tell the plugins which sandboxes there are", "network", conf.Name, "err", err)
	}
}
