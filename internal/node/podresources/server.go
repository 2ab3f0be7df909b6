package podresources

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/celox/celox/internal/node/deviceplugin"
	"github.com/celox/celox/internal/node/dra"
)

// Socket is the name of the socket in the directory.
const Socket = "kubelet.sock"

// How many questions are answered, as upstream does it.
const (
	perSecond = 100
	burst     = 10
)

// Config is what Serve needs.
type Config struct {
	// Dir is where the socket is. It is made if it isn't there.
	Dir string
	// Pods are the pods of the node that are not over.
	Pods func() []*corev1.Pod
	// Devices are those that a container has by its claims, as far as they are known.
	Devices func(*corev1.Pod, *corev1.Container) ([]dra.InUse, error)
	// Plugged are those that a container of a pod has of device plugins, Allocatable all that plugins could give.
	Plugged     func(pod types.UID, container string) []deviceplugin.Device
	Allocatable func() []deviceplugin.Device
}

// Serve answers until ctx ends.
func Serve(ctx context.Context, cfg Config) error {
	path := filepath.Join(cfg.Dir, Socket)
	err := os.MkdirAll(cfg.Dir, 0o750)
	if err == nil {
		err = os.Remove(path) // of a process that was killed
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	p := &service{cfg: cfg, limit: flowcontrol.NewTokenBucketRateLimiter(perSecond, burst)}
	s := grpc.NewServer(grpc.ForceServerCodec(codec{}))
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "v1.PodResourcesLister", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{p.method("List", p.list), p.method("Get", p.get), p.method("GetAllocatableResources", p.allocatable)},
	}, p)
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	if err := s.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// service answers the methods of the service.
type service struct {
	cfg   Config
	limit flowcontrol.RateLimiter
}

// method makes a method out of the function that answers it.
func (s *service) method(name string, answer func(request message) (message, error)) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name, Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		if !s.limit.TryAccept() {
			return nil, status.Error(codes.ResourceExhausted, "rejected by rate limit")
		}
		var request message
		if err := decode(&request); err != nil {
			return nil, err
		}
		return answer(request)
	}}
}

// list has all pods.
func (s *service) list(message) (out message, err error) {
	for _, pod := range s.cfg.Pods() {
		out = out.message(1, s.describe(pod))
	}
	return out, nil
}

// get has one pod.
func (s *service) get(request message) (message, error) {
	name, namespace, err := request.texts()
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	for _, pod := range s.cfg.Pods() {
		if pod.Namespace == namespace && pod.Name == name {
			return message{}.message(1, s.describe(pod)), nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "pod %s in namespace %s not found", name, namespace)
}

// allocatable has what plugins could give to pods. There are no managers of CPUs and memory.
func (s *service) allocatable(message) (message, error) {
	return message{}.plugged(1, s.cfg.Allocatable()), nil
}

// plugged adds a ContainerDevices for each device, and each of its NUMA nodes.
func (m message) plugged(number protowire.Number, devices []deviceplugin.Device) message {
	for _, d := range devices {
		one := message{}.text(1, d.Resource).text(2, d.ID)
		if len(d.Nodes) == 0 {
			m = m.message(number, one)
		}
		for _, node := range d.Nodes {
			m = m.message(number, slices.Concat(one, message{}.message(3, message{}.message(1, message{}.number(1, node)))))
		}
	}
	return m
}

// describe is a PodResources, with the containers that stay: sidecars and main ones.
func (s *service) describe(pod *corev1.Pod) message {
	out := message{}.text(1, pod.Name).text(2, pod.Namespace)
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out = out.message(3, s.container(pod, c))
		}
	}
	for i := range pod.Spec.Containers {
		out = out.message(3, s.container(pod, &pod.Spec.Containers[i]))
	}
	return out
}

// container is a ContainerResources: devices of plugins, and those of each claim together.
func (s *service) container(pod *corev1.Pod, c *corev1.Container) message {
	out := message{}.text(1, c.Name).plugged(2, s.cfg.Plugged(pod.UID, c.Name))
	var claim string
	var dynamic message
	devices, _ := s.cfg.Devices(pod, c) // a claim that isn't prepared yet has none
	for _, d := range devices {
		if d.Claim != claim && dynamic != nil {
			out, dynamic = out.message(5, dynamic), nil
		}
		if dynamic == nil {
			claim, dynamic = d.Claim, message{}.text(2, d.Claim).text(3, d.Namespace)
		}
		var device message
		for _, name := range d.CDI {
			device = device.message(1, message{}.text(1, name))
		}
		dynamic = dynamic.message(4, device.text(2, d.Driver).text(3, d.Pool).text(4, d.Name))
	}
	if dynamic != nil {
		out = out.message(5, dynamic)
	}
	return out
}
