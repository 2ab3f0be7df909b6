package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
)

const (
	// decidedLife is how long a request stays after the last word on it, pendingLife how long it waits for one.
	decidedLife = time.Hour
	pendingLife = 24 * time.Hour
)

// conditionOf returns a condition that is true, or nil.
func conditionOf(csr *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequestCondition {
	for i := range csr.Status.Conditions {
		if c := &csr.Status.Conditions[i]; c.Type == t && (c.Status == corev1.ConditionTrue || c.Status == "") {
			return c
		}
	}
	return nil
}

// over says when a request is to be removed.
func over(csr *certificatesv1.CertificateSigningRequest) time.Time {
	at := csr.CreationTimestamp.Add(pendingLife)
	decided := false
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		c := conditionOf(csr, t)
		if c == nil || c.LastUpdateTime.IsZero() {
			continue
		}
		life := decidedLife
		if t == certificatesv1.CertificateApproved && len(csr.Status.Certificate) == 0 {
			life = pendingLife // its signer may take its time
		}
		if end := c.LastUpdateTime.Add(life); !decided || end.Before(at) {
			at, decided = end, true
		}
	}
	if block, _ := pem.Decode(csr.Status.Certificate); block != nil {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && cert.NotAfter.Before(at) {
			at = cert.NotAfter
		}
	}
	return at
}
