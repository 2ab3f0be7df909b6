package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/audit"
	"github.com/celox/celox/internal/node/imagelogin"
	schedulerconfig "github.com/celox/celox/internal/scheduler/config"
)

// Scheduler is the scheduler's configuration.
func (s *Server) Scheduler() (*schedulerconfig.Scheduler, error) {
	if s.SchedulerConfig == "" {
		return schedulerconfig.Default(), nil
	}
	return schedulerconfig.Load(s.SchedulerConfig)
}

// Admission is the configuration of the plugins of admission.
func (s *Server) Admission() (admission.Configuration, error) {
	if s.AdmissionConfig == "" {
		return admission.Configuration{}, nil
	}
	return admission.LoadConfiguration(s.AdmissionConfig)
}

// AuditPolicy says which requests are written down; nil if none are.
func (s *Server) AuditPolicy() (*auditv1.Policy, error) {
	if s.AuditPolicyFile == "" {
		return nil, nil
	}
	return audit.LoadPolicy(s.AuditPolicyFile)
}

// EtcdTLS is how the external etcd is spoken to; nil is without certificates. The error names the key.
func (s *Server) EtcdTLS() (*tls.Config, error) {
	if s.EtcdCAFile == "" && s.EtcdCertFile == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.EtcdCAFile != "" {
		pem, err := os.ReadFile(s.EtcdCAFile)
		if err != nil {
			return nil, fmt.Errorf("--etcd-cafile: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--etcd-cafile: %s holds no certificate", s.EtcdCAFile)
		}
	}
	if s.EtcdCertFile != "" {
		pair, err := tls.LoadX509KeyPair(s.EtcdCertFile, s.EtcdKeyFile)
		if err != nil {
			return nil, fmt.Errorf("--etcd-certfile: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// checkFiles tells bad about the files that a server reads, and the places of those that it writes outside of its data directory.
func (s *Server) checkFiles(bad func(key, format string, args ...any)) {
	if _, err := s.Scheduler(); err != nil {
		bad("scheduler-config", "%v", err)
	}
	if _, err := s.Admission(); err != nil {
		bad("admission-control-config-file", "%v", err)
	}
	if (s.AuditPolicyFile == "") != (s.AuditLogPath == "") {
		bad("audit-policy-file", "give it together with --audit-log-path")
	} else if _, err := s.AuditPolicy(); err != nil {
		bad("audit-policy-file", "%v", err)
	}
	if s.AuditLogPath != "" && s.AuditLogPath != audit.Stdout {
		if err := CheckPlace(s.AuditLogPath, true); err != nil {
			bad("audit-log-path", "%v", err)
		}
	}
	if s.WriteKubeconfig != "" && filepath.Dir(s.WriteKubeconfig) != s.DataDir {
		if err := CheckPlace(s.WriteKubeconfig, false); err != nil {
			bad("write-kubeconfig", "%v", err)
		}
	}
	if !s.DisableNode {
		s.Node.checkFiles(bad)
	}
}

// checkFiles tells bad about the files that a node reads.
func (n *Node) checkFiles(bad func(key, format string, args ...any)) {
	if n.ImageCredentials == "" || n.ImageCredentialsBinDir == "" {
		return
	}
	if _, err := imagelogin.Open(imagelogin.Config{Path: n.ImageCredentials, BinDir: n.ImageCredentialsBinDir}); err != nil {
		bad("image-credential-provider-config", "%v", err)
	}
}

// CheckPlace says why no file can be written at a path; nil is that one can. makes says that directories on the way are made.
func CheckPlace(path string, makes bool) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return fmt.Errorf("%s is a directory: name a file", path)
	}
	dir := filepath.Dir(path)
	for {
		info, err := os.Stat(dir)
		switch {
		case err == nil && !info.IsDir():
			return fmt.Errorf("%s is no directory", dir)
		case err == nil:
			if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
				return fmt.Errorf("no file can be written in %s: %w", dir, err)
			}
			return nil
		case !errors.Is(err, fs.ErrNotExist):
			return err
		case !makes:
			return fmt.Errorf("the directory %s does not exist", dir)
		}
		dir = filepath.Dir(dir) // the root is there
	}
}
