package podresources

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/celox/celox/internal/node/deviceplugin"
	"github.com/celox/celox/internal/node/dra"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client speaks to a service with the code that is generated for it, as others do.
func client(t *testing.T, cfg Config) api.PodResourcesListerClient {
	t.Helper()
	dir, err := os.MkdirTemp("", "pr") // paths of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	cfg.Dir, cfg.Devices, cfg.Plugged, cfg.Allocatable = filepath.Join(dir, "pod-resources"), devices, plugged, toys
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, cfg) }()
	conn, err := grpc.NewClient("unix://"+filepath.Join(cfg.Dir, Socket), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return api.NewPodResourcesListerClient(conn)
}

func pods() []*corev1.Pod {
	always := corev1.ContainerRestartPolicyAlways
	return []*corev1.Pod{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p", UID: "1"}, Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "init"}, {Name: "sidecar", RestartPolicy: &always}}, Containers: []corev1.Container{{Name: "gpu"}, {Name: "none"}},
		}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "b", Name: "p"}},
	}
}

func devices(pod *corev1.Pod, c *corev1.Container) ([]dra.InUse, error) {
	if c.Name != "gpu" {
		return nil, nil
	}
	return []dra.InUse{
		{Namespace: pod.Namespace, Claim: "one", Driver: "gpu.example.com", Pool: "n1", Name: "gpu-0", CDI: []string{"example.com/gpu=0", "example.com/gpu=all"}},
		{Namespace: pod.Namespace, Claim: "one", Driver: "gpu.example.com", Pool: "n1", Name: "gpu-1"},
		{Namespace: pod.Namespace, Claim: "two", Driver: "net.example.com", Pool: "n1", Name: "nic-0", CDI: []string{"example.com/nic=0"}},
	}, nil
}

func toys() []deviceplugin.Device {
	return []deviceplugin.Device{{Resource: "example.com/toy", ID: "a"}, {Resource: "example.com/toy", ID: "b", Nodes: []int64{0, 3}}}
}

func plugged(pod types.UID, container string) []deviceplugin.Device {
	if pod != "1" || container != "sidecar" {
		return nil
	}
	return toys()
}

func TestWhichPodHasWhat(t *testing.T) {
	c := client(t, Config{Pods: pods})
	node := func(id int64) *api.TopologyInfo { return &api.TopologyInfo{Nodes: []*api.NUMANode{{ID: id}}} }
	toys := []*api.ContainerDevices{
		{ResourceName: "example.com/toy", DeviceIds: []string{"a"}},
		{ResourceName: "example.com/toy", DeviceIds: []string{"b"}, Topology: node(0)},
		{ResourceName: "example.com/toy", DeviceIds: []string{"b"}, Topology: node(3)},
	}
	first := &api.PodResources{Namespace: "a", Name: "p", Containers: []*api.ContainerResources{
		{Name: "sidecar", Devices: toys},
		{Name: "gpu", DynamicResources: []*api.DynamicResource{
			{ClaimNamespace: "a", ClaimName: "one", ClaimResources: []*api.ClaimResource{
				{DriverName: "gpu.example.com", PoolName: "n1", DeviceName: "gpu-0", CdiDevices: []*api.CDIDevice{{Name: "example.com/gpu=0"}, {Name: "example.com/gpu=all"}}},
				{DriverName: "gpu.example.com", PoolName: "n1", DeviceName: "gpu-1"},
			}},
			{ClaimNamespace: "a", ClaimName: "two", ClaimResources: []*api.ClaimResource{
				{DriverName: "net.example.com", PoolName: "n1", DeviceName: "nic-0", CdiDevices: []*api.CDIDevice{{Name: "example.com/nic=0"}}},
			}},
		}},
		{Name: "none"},
	}}
	second := &api.PodResources{Namespace: "b", Name: "p"}
	equal := func(got, want proto.Message, err error) {
		t.Helper()
		if err != nil || !proto.Equal(got, want) {
			t.Errorf("%v, %v\nwant %v", got, err, want)
		}
	}
	list, err := c.List(t.Context(), &api.ListPodResourcesRequest{})
	equal(list, &api.ListPodResourcesResponse{PodResources: []*api.PodResources{first, second}}, err)
	one, err := c.Get(t.Context(), &api.GetPodResourcesRequest{PodNamespace: "b", PodName: "p"})
	equal(one, &api.GetPodResourcesResponse{PodResources: second}, err)
	_, err = c.Get(t.Context(), &api.GetPodResourcesRequest{PodNamespace: "c", PodName: "p"})
	if status.Code(err) != codes.NotFound || status.Convert(err).Message() != "pod p in namespace c not found" {
		t.Errorf("a pod that isn't there: %v", err)
	}
	all, err := c.GetAllocatableResources(t.Context(), &api.AllocatableResourcesRequest{})
	equal(all, &api.AllocatableResourcesResponse{Devices: toys}, err)
}

func TestTooManyQuestions(t *testing.T) {
	c := client(t, Config{Pods: func() []*corev1.Pod { return nil }})
	for range 100 * burst {
		if _, err := c.List(t.Context(), &api.ListPodResourcesRequest{}); status.Code(err) == codes.ResourceExhausted {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("nothing was refused")
}

func FuzzTexts(f *testing.F) {
	f.Add([]byte(message{}.text(1, "p").text(2, "ns")))
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		first, second, err := message(data).texts()
		var want api.GetPodResourcesRequest
		if proto.Unmarshal(data, &want) == nil && (err != nil || first != want.PodName || second != want.PodNamespace) {
			t.Errorf("%q, %q, %v, want %v", first, second, err, &want)
		}
	})
}
