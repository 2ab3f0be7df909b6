package runtime

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/runtime/holder"
)

// Pods come and go while the holder is killed again and again. Calls may fail
// then, but what was acknowledged holds: a container that was started runs until
// it is stopped, every container ends up in a known state, everything can be
// removed, and nothing is left (the fixture checks).
func TestHolderKilledWhilePodsComeAndGo(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	r := f.s.Runtime()

	keep, _ := f.sandbox("keep", nil)
	kept := f.run(keep, "kept", nil, "sh", "-c", "while :; do sleep 0.05; done")
	started := f.status(kept).StartedAt

	const pods, kills = 6, 5
	var work sync.WaitGroup
	for i := range pods {
		work.Go(func() {
			for round := range 4 {
				config := f.sandboxConfig(fmt.Sprintf("p%d-%d", i, round), nil)
				sandbox, err := r.RunPodSandbox(ctx, config, "")
				if err != nil {
					t.Errorf("sandbox: %v", err) // needs no holder
					return
				}
				id, err := r.CreateContainer(ctx, sandbox, f.containerConfig("c", nil, "sh", "-c", "sleep 0.05; exit 3"), config)
				if err != nil {
					t.Errorf("create: %v", err) // needs no holder either
					return
				}
				if err := r.StartContainer(ctx, id); err == nil {
					f.exited(id)
				}
				if st := f.status(id); st.State != cri.ContainerState_CONTAINER_EXITED {
					t.Errorf("container is %v", st)
				}
				for ctx.Err() == nil {
					if err = r.RemovePodSandbox(ctx, sandbox); err == nil {
						break
					}
					time.Sleep(20 * time.Millisecond)
				}
				if err != nil {
					t.Errorf("remove: %v", err)
				}
			}
		})
	}
	for range kills {
		time.Sleep(150 * time.Millisecond)
		killHolder(t, f.s.dir.run())
	}
	work.Wait()
	if st := f.status(kept); st.State != cri.ContainerState_CONTAINER_RUNNING || st.StartedAt != started {
		t.Errorf("the container that should live is %v", st)
	}
	var err error
	for range 3000 {
		var out []byte
		if out, _, err = r.ExecSync(ctx, kept, []string{"echo", "alive"}, 0); err == nil && string(out) == "alive\n" {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("exec after the kills: %v", err)
}

// A start that gave no answer counts as failed. If the holder hears of it only after that, the process must not stay.
func TestLateStart(t *testing.T) {
	for name, late := range map[string]bool{"after the record": true, "before the record": false} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			sandbox, config := f.sandbox("p", nil)
			id, err := f.s.Runtime().CreateContainer(ctx, sandbox, f.containerConfig("c", nil, "sleep", "1000"), config)
			if err != nil {
				t.Fatal(err)
			}
			k, err := f.s.findContainer(id)
			if err != nil {
				t.Fatal(err)
			}
			start := func() {
				st, err := f.s.client.Start(ctx, holder.Task{ID: id, Spec: k.spec})
				if err != nil {
					t.Fatal(err)
				}
				f.s.apply(st)
			}
			noAnswer := errors.New("no answer")
			if late {
				if f.s.failedToStart(k, noAnswer) {
					t.Error("it runs before it was started")
				}
				start()
			} else {
				start()
				if !f.s.failedToStart(k, noAnswer) {
					t.Error("that it runs went unnoticed")
				}
				f.s.endTask(ctx, id) // as StartContainer does
			}
			for !holder.HasCode(f.s.client.Kill(ctx, id, 0, false), holder.CodeNotFound) {
				if ctx.Err() != nil {
					t.Fatal("the process lives on")
				}
				time.Sleep(10 * time.Millisecond)
			}
			if st := f.status(id); st.State != cri.ContainerState_CONTAINER_EXITED || st.ExitCode != startErrorCode {
				t.Errorf("the container is %v", st)
			}
		})
	}
}
