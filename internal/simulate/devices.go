package simulate

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CreateDevices publishes devices of a driver for every node that is there, and makes a class for them and templates for claims to one of them.
type CreateDevices struct {
	// PerNode is how many each node has, at most 128.
	PerNode Count `json:"perNode"`
	// Class and Template are the names of the two; Namespace is the template's.
	Class     string `json:"class"`
	Template  string `json:"template"`
	Namespace string `json:"namespace,omitempty"`
}

const deviceDriver = "devices.simulation.celox"

func (o *CreateDevices) check(nodes int) error {
	n, err := o.PerNode.Of(nodes)
	switch {
	case err != nil:
		return err
	case n < 1 || n > resourcev1.ResourceSliceMaxDevices:
		return fmt.Errorf("perNode: %d: want 1 to %d", n, resourcev1.ResourceSliceMaxDevices)
	case o.Class == "" || o.Template == "":
		return fmt.Errorf("class and template: give both a name")
	}
	return nil
}

func (s *simulation) createDevices(ctx context.Context, o *CreateDevices) (string, error) {
	perNode, err := o.PerNode.Of(s.nodes)
	if err != nil {
		return "", err
	}
	api := s.client.ResourceV1()
	class := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: o.Class}}
	class.Spec.Selectors = []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: fmt.Sprintf("device.driver == %q", deviceDriver)}}}
	if _, err := api.DeviceClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil {
		return "", err
	}
	template := &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Name: o.Template}}
	template.Spec.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "device", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: o.Class}}}
	if _, err := api.ResourceClaimTemplates(namespaceOr(o.Namespace)).Create(ctx, template, metav1.CreateOptions{}); err != nil {
		return "", err
	}
	nodes, err := s.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	err = each(ctx, len(nodes.Items), 0, func(ctx context.Context, i int) error {
		_, err := api.ResourceSlices().Create(ctx, sliceOf(&nodes.Items[i], perNode), metav1.CreateOptions{})
		return err
	})
	return fmt.Sprintf("%d on each of %d nodes", perNode, len(nodes.Items)), err
}

func sliceOf(node *v1.Node, devices int) *resourcev1.ResourceSlice {
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: node.Name}}
	s.Spec = resourcev1.ResourceSliceSpec{Driver: deviceDriver, NodeName: &node.Name, Pool: resourcev1.ResourcePool{Name: node.Name, Generation: 1, ResourceSliceCount: 1}}
	for i := range devices {
		id := fmt.Sprintf("%s/%d", node.Name, i)
		s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: fmt.Sprint("device-", i), Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"id": {StringValue: &id}}})
	}
	return s
}
