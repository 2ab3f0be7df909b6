package nodettl

import (
	"context"
	"fmt"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSteps(t *testing.T) {
	step := 0
	for _, c := range []struct{ count, seconds int }{{1, 0}, {100, 0}, {101, 15}, {95, 15}, {89, 0}, {500, 15}, {501, 30}, {450, 30}, {449, 15}, {5000, 300}, {1800, 300}, {1799, 60}, {10001, 300}, {0, 0}} {
		if step = next(step, c.count); steps[step].seconds != c.seconds {
			t.Errorf("%d nodes: %d seconds, want %d", c.count, steps[step].seconds, c.seconds)
		}
	}
}

func TestNodesAreTold(t *testing.T) {
	t.Parallel()
	e := controllertest.Start(t)
	c, err := New(e.Client, e.Informers, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, c)
	ctx, nodes := context.Background(), e.Client.CoreV1().Nodes()
	expect := func(want string) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			n, err := nodes.Get(ctx, "node-0", metav1.GetOptions{})
			if err != nil || n.Annotations[corev1.ObjectTTLAnnotationKey] != want {
				return fmt.Errorf("annotations %v, want %s (%v)", n.Annotations, want, err)
			}
			return nil
		})
	}
	for i := range 101 {
		if _, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node-", i)}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			expect("0")
		}
	}
	expect("15")
}
