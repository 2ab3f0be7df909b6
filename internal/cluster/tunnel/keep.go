package tunnel

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// A tunnel that cannot be opened is tried again after retry, doubling to retryLast, each with up to half as much again so that nodes do not come all at once.
	retry, retryLast = time.Second, 30 * time.Second
	// steady is how long a tunnel has to last for the next attempt to come soon again.
	steady = time.Minute
)

// Run keeps the tunnels until ctx ends, and returns when all of them have ended.
func (a *Agent) Run(ctx context.Context) error {
	keepers := map[string]context.CancelFunc{}
	var running sync.WaitGroup
	defer running.Wait()
	defer func() {
		for _, cancel := range keepers {
			cancel()
		}
	}()
	for {
		others, changed := a.cfg.Servers()
		wanted := append([]string{a.cfg.Server}, others...)
		for server, cancel := range keepers {
			if !slices.Contains(wanted, server) {
				cancel()
				delete(keepers, server)
			}
		}
		for _, server := range wanted {
			if keepers[server] == nil {
				own, cancel := context.WithCancel(ctx)
				keepers[server] = cancel
				running.Go(func() { a.keep(own, server) })
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// keep keeps the tunnel to one server until ctx ends.
func (a *Agent) keep(ctx context.Context, server string) {
	said := false
	wait := a.retry
	for {
		var begun time.Time
		err := a.once(ctx, server, func() {
			begun = time.Now()
			if said {
				said = false
				a.cfg.Say("the tunnel to the server at %s is back", server)
			}
			a.cfg.Log.Debug("the tunnel stands", "server", server)
		})
		var held errHeld
		switch {
		case ctx.Err() != nil:
			return
		case errors.As(err, &held):
			// Its other address is as good; this one is needed when that tunnel ends.
			select {
			case <-ctx.Done():
				return
			case <-held.ended:
			}
			wait = a.retry
		case begun.IsZero():
			if !said {
				said = true
				a.cfg.Say("no tunnel to the server at %s (%v): it can reach this node only directly until there is one; trying again", server, err)
			}
		default:
			a.cfg.Log.Info("the tunnel ended", "server", server, "err", err)
			if time.Since(begun) >= steady {
				wait = a.retry
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait + rand.N(wait/2)):
		}
		wait = min(2*wait, retryLast)
	}
}
