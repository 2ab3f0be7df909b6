package cluster

import (
	"fmt"
	"time"

	"github.com/celox/celox/internal/apiserver/audit"
)

// auditor makes what writes down who does what; nil if nobody wants to know.
func (s *Server) auditor(run *group) (*audit.Auditor, error) {
	policy, err := s.cfg.AuditPolicy()
	if err != nil {
		return nil, fmt.Errorf("--audit-policy-file: %w", err)
	}
	if policy == nil {
		return nil, nil
	}
	const day, megabyte = 24 * time.Hour, 1 << 20
	log, err := audit.OpenLog(s.cfg.AuditLogPath, audit.LogOptions{
		MaxAge: time.Duration(s.cfg.AuditLogMaxAge) * day, MaxBackups: s.cfg.AuditLogMaxBackup, MaxBytes: int64(s.cfg.AuditLogMaxSize) * megabyte,
	}, time.Now)
	if err != nil {
		return nil, fmt.Errorf("--audit-log-path: %w", err)
	}
	run.atEnd("audit log", log.Close)
	return audit.New(policy, log, func(err error) { s.log.Error("writing an audit event", "err", err) }, time.Now), nil
}
