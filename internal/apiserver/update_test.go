package apiserver

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestUpdatesDoNotOverwrite counts in one object from many clients at once: an update of a state that is not the newest is refused, also
// when the other write comes while the update is on its way.
func TestUpdatesDoNotOverwrite(t *testing.T) {
	const clients, each = 8, 25
	cs := listen(t, newServer(t), "application/json")
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	configMaps := cs.CoreV1().ConfigMaps("n")
	if _, err := configMaps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "counter"}, Data: map[string]string{"n": "0"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	for range clients {
		done.Go(func() {
			for counted := 0; counted < each; {
				m, err := configMaps.Get(ctx, "counter", metav1.GetOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				n, err := strconv.Atoi(m.Data["n"])
				if err != nil {
					t.Error(err)
					return
				}
				m.Data["n"] = strconv.Itoa(n + 1)
				_, err = configMaps.Update(ctx, m, metav1.UpdateOptions{})
				if apierrors.IsConflict(err) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				counted++
			}
		})
	}
	done.Wait()
	m, err := configMaps.Get(ctx, "counter", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if want := strconv.Itoa(clients * each); m.Data["n"] != want {
		t.Errorf("counted to %s, want %s: updates were lost", m.Data["n"], want)
	}
}
