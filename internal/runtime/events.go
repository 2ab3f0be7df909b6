package runtime

import (
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// eventBacklog is how far a reader of events may be behind before it is cut off;
// it then lists again.
const eventBacklog = 1024

// broker hands each event to every reader.
type broker struct {
	mu      sync.Mutex
	closed  bool                                          // guarded by mu
	readers map[chan *cri.ContainerEventResponse]struct{} // guarded by mu
}

func newBroker() *broker {
	return &broker{readers: map[chan *cri.ContainerEventResponse]struct{}{}}
}

// subscribe returns a channel that is closed when the reader is too slow or the
// broker ends.
func (b *broker) subscribe() chan *cri.ContainerEventResponse {
	ch := make(chan *cri.ContainerEventResponse, eventBacklog)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		close(ch)
		return ch
	}
	b.readers[ch] = struct{}{}
	return ch
}

func (b *broker) unsubscribe(ch chan *cri.ContainerEventResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.readers, ch)
}

// wanted tells whether anybody listens.
func (b *broker) wanted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.readers) > 0
}

func (b *broker) publish(e *cri.ContainerEventResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch := range b.readers {
		select {
		case ch <- e:
		default:
			delete(b.readers, ch)
			close(ch)
		}
	}
}

func (b *broker) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for ch := range b.readers {
		delete(b.readers, ch)
		close(ch)
	}
}

// publish tells what happened to a container, or to a sandbox itself, with the
// state of the whole pod.
func (s *Service) publish(kind cri.ContainerEventType, id string, b *sandbox) {
	if !s.events.wanted() {
		return
	}
	e := &cri.ContainerEventResponse{
		ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano(), PodSandboxStatus: s.sandboxStatus(b),
	}
	for _, k := range s.containersOf(b) {
		e.ContainersStatuses = append(e.ContainersStatuses, s.containerStatus(k))
	}
	s.events.publish(e)
}

// GetContainerEvents streams what happens to containers and sandboxes.
func (s *Service) GetContainerEvents(_ *cri.GetEventsRequest, stream cri.RuntimeService_GetContainerEventsServer) error {
	ch := s.events.subscribe()
	defer s.events.unsubscribe(ch)
	for {
		select {
		case e, ok := <-ch:
			if !ok {
				return errEventsLost
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

var errEventsLost = status.Error(codes.Unavailable, "container events were lost: list again")
