package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/celox/celox/internal/store/kv"
)

// api is what the embedded server and a client of a remote one have in common.
type api interface {
	Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error)
	Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error)
	Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error)
	LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error)
}

// operations are the parts of kv.Engine that are the same for both.
type operations struct{ api api }

// Range reads keys.
func (o operations) Range(ctx context.Context, r kv.RangeRequest) (kv.RangeResponse, error) {
	req := &pb.RangeRequest{
		Key: []byte(r.Key), Limit: r.Limit, Revision: r.Revision,
		Serializable: r.Serializable, CountOnly: r.CountOnly, KeysOnly: r.KeysOnly,
	}
	if r.End != "" {
		req.RangeEnd = []byte(r.End)
	}
	resp, err := o.api.Range(ctx, req)
	if err != nil {
		return kv.RangeResponse{}, translate(ctx, err)
	}
	out := kv.RangeResponse{Count: resp.Count, More: resp.More, Revision: resp.Header.Revision}
	if len(resp.Kvs) > 0 {
		out.KVs = make([]kv.KeyValue, len(resp.Kvs))
		for i, item := range resp.Kvs {
			out.KVs[i] = keyValue(item)
		}
	}
	return out, nil
}

func keyValue(item *mvccpb.KeyValue) kv.KeyValue {
	return kv.KeyValue{
		Key: string(item.Key), Value: item.Value, CreateRevision: item.CreateRevision, ModRevision: item.ModRevision,
		Version: item.Version, Lease: kv.LeaseID(item.Lease),
	}
}

// Txn applies ops if all guards hold; else it reads the guarded keys in the same transaction.
func (o operations) Txn(ctx context.Context, guards []kv.Guard, ops []kv.Op) (kv.TxnResponse, error) {
	resp, err := o.api.Txn(ctx, request(guards, ops))
	if err != nil {
		return kv.TxnResponse{}, translate(ctx, err)
	}
	return txnResponse(resp), nil
}

func txnResponse(resp *pb.TxnResponse) kv.TxnResponse {
	out := kv.TxnResponse{Succeeded: resp.Succeeded, Revision: resp.Header.Revision}
	if !resp.Succeeded {
		for _, r := range resp.Responses {
			for _, item := range r.GetResponseRange().GetKvs() {
				out.Current = append(out.Current, keyValue(item))
			}
		}
	}
	return out
}

// request is a transaction in etcd's words.
func request(guards []kv.Guard, ops []kv.Op) *pb.TxnRequest {
	req := &pb.TxnRequest{
		Compare: make([]*pb.Compare, len(guards)),
		Success: make([]*pb.RequestOp, len(ops)),
		Failure: make([]*pb.RequestOp, len(guards)),
	}
	for i, g := range guards {
		key := []byte(g.Key)
		req.Compare[i] = &pb.Compare{
			Result: pb.Compare_EQUAL, Target: pb.Compare_MOD, Key: key,
			TargetUnion: &pb.Compare_ModRevision{ModRevision: g.ModRevision},
		}
		req.Failure[i] = &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}
	}
	for i, op := range ops {
		if op.Delete {
			req.Success[i] = &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(op.Key)}}}
		} else {
			req.Success[i] = &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(op.Key), Value: op.Value, Lease: int64(op.Lease)}}}
		}
	}
	return req
}

// Compact forgets the history before revision.
func (o operations) Compact(ctx context.Context, revision int64) error {
	_, err := o.api.Compact(ctx, &pb.CompactionRequest{Revision: revision})
	return translate(ctx, err)
}

// Grant makes a lease. etcd counts in seconds, and gives no less than one and a half election timeouts.
func (o operations) Grant(ctx context.Context, ttl time.Duration) (kv.LeaseID, error) {
	resp, err := o.api.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: int64((ttl + time.Second - 1) / time.Second)})
	if err != nil {
		return 0, translate(ctx, err)
	}
	return kv.LeaseID(resp.ID), nil
}

// translate turns etcd's errors into those of package kv.
func translate(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	// The client reports errors of type EtcdError, the server status errors with the same words.
	err = rpctypes.Error(err)
	for theirs, ours := range map[error]error{
		rpctypes.ErrCompacted:       kv.ErrCompacted,
		rpctypes.ErrFutureRev:       kv.ErrFutureRevision,
		rpctypes.ErrNoSpace:         kv.ErrNoSpace,
		rpctypes.ErrRequestTooLarge: kv.ErrTooLarge,
		rpctypes.ErrLeaseNotFound:   kv.ErrLeaseNotFound,
	} {
		if errors.Is(err, theirs) {
			return ours
		}
	}
	code := status.Code(err)
	if e := (rpctypes.EtcdError{}); errors.As(err, &e) {
		code = e.Code()
	}
	switch code {
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
		return fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
	case codes.ResourceExhausted: // gRPC's own limit of a message
		return fmt.Errorf("%w: %w", kv.ErrTooLarge, err)
	}
	return err
}

// prefixEnd is the first key after all keys with the prefix.
func prefixEnd(prefix string) []byte {
	end := []byte(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return []byte{0}
}

// response turns events of one watch response into ours.
func response(events []*mvccpb.Event) kv.WatchResponse {
	out := kv.WatchResponse{Events: make([]kv.Event, len(events))}
	for i, ev := range events {
		out.Events[i].KV = keyValue(ev.Kv)
		if ev.Type == mvccpb.Event_DELETE {
			out.Events[i].Type = kv.Delete
		}
	}
	out.Revision = events[len(events)-1].Kv.ModRevision
	return out
}
