package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/celox/celox/test/e2e/machine"
)

const (
	joinMethod = "A machine on the server's segment that has never joined, `celox agent` with a token: from just before exec until the administrator's watch at the server shows " +
		"the node Ready. Median of all runs (-runs)."
	joinServer = "10.8.1.1"
)

func joining(ctx context.Context, b *bench) (err error) {
	segment, err := machine.NewSegment()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, segment.Close()) }()
	server, err := machine.New("join")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Remove()) }()
	if err := segment.Plug(server.NS, machine.Interface, netip.MustParsePrefix(joinServer+"/24")); err != nil {
		return err
	}
	if err := server.Start("--node-ip", joinServer); err != nil {
		return err
	}
	token, err := server.Celox("token", "create")
	if err != nil {
		return err
	}
	noise, err := beginNoise(cluster{pid: server.Pid(), dataDir: server.DataDir})
	if err != nil {
		return err
	}
	var took, cpu []time.Duration
	for i := range b.opt.runs {
		b.say("join: %d of %d", i+1, b.opt.runs)
		t, c, err := joinOnce(ctx, segment, server, strings.TrimSpace(token), i)
		if err != nil {
			return err
		}
		took, cpu = append(took, t), append(cpu, c)
	}
	b.out.figure(figure{Name: "agent started → node Ready", Value: quantile(took, 0.5).Seconds(), Unit: "s", Target: 1, Upstream: 0.3,
		Detail: fmt.Sprintf("median of %d, %.0f to %.0f ms", len(took), milliseconds(quantile(took, 0)), milliseconds(quantile(took, 1)))})
	b.out.figure(figure{Name: "CPU of the agent until then", Value: quantile(cpu, 0.5).Seconds(), Unit: "s CPU"})
	percent, err := noise.percent(cluster{pid: server.Pid(), dataDir: server.DataDir})
	b.out.noise(percent)
	return err
}

// joinOnce has a new machine join and takes it away again.
func joinOnce(ctx context.Context, segment *machine.Segment, server *machine.Machine, token string, n int) (took, cpu time.Duration, err error) {
	name := fmt.Sprint("joins-", n)
	m, err := machine.New(name)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, m.Remove()) }()
	if err := segment.Plug(m.NS, machine.Interface, netip.MustParsePrefix(fmt.Sprintf("10.8.1.%d/24", 10+n))); err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	begin := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- m.StartAgent("--server", "https://"+joinServer+":6443", "--token", token) }()
	err = awaitNode(ctx, server, name)
	took = time.Since(begin)
	if err = errors.Join(err, <-ended); err != nil {
		return 0, 0, fmt.Errorf("%w\nthe agent said:\n%s", err, m.Output())
	}
	cpu, err = cluster{pid: m.Pid(), dataDir: m.DataDir}.cpu()
	return took, cpu, err
}
