package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubectl/pkg/drain"

	"github.com/celox/celox/internal/cluster/config"
)

func newNode() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Take nodes out of the cluster",
		Long: `Take nodes out of the cluster: drain moves their pods elsewhere, remove does that and then forgets the node.

"celox reset" on the machine itself takes Celox off it.`,
		Example: "  celox node drain rack7-2\n  celox node remove rack7-2",
	}
	fs := cmd.PersistentFlags()
	fs.String("data-dir", config.DefaultDataDir, "directory of the cluster")
	fs.String("kubeconfig", "", "kubeconfig to use")
	fs.String("context", "", "context of the kubeconfig")
	cmd.AddCommand(newNodeDrain(), newNodeRemove())
	return cmd
}

// drainFlags are what both commands can be told.
type drainFlags struct {
	timeout time.Duration
	grace   int
	force   bool
}

func (f *drainFlags) bind(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "how long to wait for pods to go; 0 is for ever")
	cmd.Flags().IntVar(&f.grace, "grace-period", -1, "seconds that pods get to end; negative is what each says itself")
	cmd.Flags().BoolVar(&f.force, "force", false, "also pods that no controller makes anew elsewhere")
}

// drain keeps new pods from a node and evicts those that are there. Budgets of disruption are kept; pods of DaemonSets stay.
func (f *drainFlags) check() error {
	if f.timeout < 0 {
		return fmt.Errorf("--timeout: %v is over already: use a time like 5m, or 0 for ever", f.timeout)
	}
	return nil
}

func (f *drainFlags) drain(cmd *cobra.Command, c kubernetes.Interface, node *corev1.Node) error {
	told := &budgets{Interface: c, node: node.Name, said: map[string]bool{}, out: cmd.ErrOrStderr()}
	h := &drain.Helper{
		Ctx: cmd.Context(), Client: told, Force: f.force, GracePeriodSeconds: f.grace, Timeout: f.timeout,
		IgnoreAllDaemonSets: true, DeleteEmptyDirData: true, Out: cmd.OutOrStdout(), ErrOut: cmd.ErrOrStderr(), EvictErrorRetryDelay: evictionRetry,
	}
	if err := drain.RunCordonOrUncordon(h, node, true); err != nil {
		return fmt.Errorf("cordon node %s: %w", node.Name, err)
	}
	if err := drain.RunNodeDrain(h, node.Name); err != nil {
		return fmt.Errorf("drain node %s: %w%s (it stays closed for new pods: `celox kubectl uncordon %s` opens it)", node.Name, err, told.held(), node.Name)
	}
	return nil
}

// evictionRetry is how long a drain waits before it asks again for a pod that a budget keeps, as kubectl does.
const evictionRetry = 5 * time.Second

func newNodeDrain() *cobra.Command {
	var f drainFlags
	cmd := &cobra.Command{
		Use:   "drain NAME",
		Short: "Move a node's pods elsewhere and keep new ones from it",
		Long: `Move a node's pods elsewhere and keep new ones from it. Pods of DaemonSets and mirrors of static pods stay. Budgets (PodDisruptionBudget) are kept: a pod that may not
go now is tried again every 5 s, until --timeout. What pods have in emptyDir volumes is lost with them. Pods that no controller makes anew are a reason to stop,
unless --force says that they may be lost.`,
		Example: "  celox node drain rack7-2\n  celox node drain rack7-2 --timeout 5m --force",
		Args:    takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			c, node, err := nodeOf(cmd, args[0])
			if err != nil {
				return err
			}
			if err := f.drain(cmd, c, node); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "node %s is drained; `celox kubectl uncordon %s` lets pods come again\n", node.Name, node.Name)
			return err
		},
	}
	f.bind(cmd)
	return cmd
}

func newNodeRemove() *cobra.Command {
	var f drainFlags
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Drain a node and remove it from the cluster",
		Long: `Drain a node and remove it from the cluster. One that is not Ready is not drained, because nobody there would end its pods: they are removed with it.

Stop the agent before, or right after: an agent that runs on makes its node anew.`,
		Example: "  celox node remove rack7-2",
		Args:    takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			c, node, err := nodeOf(cmd, args[0])
			if err != nil {
				return err
			}
			if isReady(node) {
				if err := f.drain(cmd, c, node); err != nil {
					return err
				}
			}
			if err := c.CoreV1().Nodes().Delete(cmd.Context(), node.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(node.UID))}); err != nil {
				return fmt.Errorf("remove node %s: %w", node.Name, err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "node %s is removed; `celox reset` on the machine takes Celox off it\n", node.Name)
			return err
		},
	}
	f.bind(cmd)
	return cmd
}

// nodeOf finds a node of the cluster that the flags name.
func nodeOf(cmd *cobra.Command, name string) (kubernetes.Interface, *corev1.Node, error) {
	c, _, err := clusterClient(cmd)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
	defer cancel()
	node, err := c.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("find node %s: %w", name, err)
	}
	return c, node, nil
}

func isReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
