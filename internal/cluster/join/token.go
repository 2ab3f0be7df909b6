package join

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

const (
	idLength, secretLength = 6, 16
	alphabet               = "abcdefghijklmnopqrstuvwxyz0123456789"
	// kubeadmHash is how kubeadm writes the hash of an authority.
	kubeadmHash = "sha256:"
)

// token has the id and the secret of a bootstrap token of Kubernetes and, unless it is told apart, the hash of the authority.
var token = regexp.MustCompile(`\A([a-z0-9]{6})\.([a-z0-9]{16})(?:\.([0-9a-f]{64}))?\z`)

// Token lets a machine join a cluster.
type Token struct {
	ID, Secret string
	// CAHash is the SHA-256 of the public key (SubjectPublicKeyInfo) of the cluster's authority, in hexadecimal.
	CAHash string
}

// NewToken makes up a token for a cluster.
func NewToken(caHash string) (Token, error) {
	id, err := letters(idLength)
	if err != nil {
		return Token{}, err
	}
	secret, err := letters(secretLength)
	if err != nil {
		return Token{}, err
	}
	return Token{ID: id, Secret: secret, CAHash: caHash}, nil
}

// letters are n characters of chance, each as likely as the others.
func letters(n int) (string, error) {
	out := make([]byte, 0, n)
	buf := make([]byte, 2*n)
	for len(out) < n {
		if _, err := rand.Read(buf); err != nil {
			return "", fmt.Errorf("make a token: %w", err)
		}
		for _, b := range buf {
			// Bytes beyond the last multiple of the alphabet would make its first letters likelier.
			if int(b) < 256/len(alphabet)*len(alphabet) && len(out) < n {
				out = append(out, alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return string(out), nil
}

// ParseToken reads ID.SECRET.HASH, or ID.SECRET with the hash apart: as HASH or, as kubeadm has it, sha256:HASH.
func ParseToken(text, caHash string) (Token, error) {
	m := token.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return Token{}, errors.New("the token is not complete: it looks like abcdef.0123456789abcdef.HASH, all in one piece; `celox token create` on the server prints one")
	}
	t := Token{ID: m[1], Secret: m[2], CAHash: m[3]}
	if caHash = bareHash(caHash); caHash != "" {
		if err := CheckHash(caHash); err != nil {
			return Token{}, err
		}
		if t.CAHash != "" && t.CAHash != caHash {
			return Token{}, errors.New("the token names one cluster, and the hash of the authority another")
		}
		t.CAHash = caHash
	}
	if t.CAHash == "" {
		return Token{}, errors.New("the token does not say which cluster it is for: take one of `celox token create`, or give the hash of the cluster's authority as well (--ca-hash)")
	}
	return t, nil
}

func bareHash(text string) string { return strings.TrimPrefix(strings.TrimSpace(text), kubeadmHash) }

// CheckHash refuses what is no hash of an authority.
func CheckHash(text string) error {
	if raw, err := hex.DecodeString(bareHash(text)); err != nil || len(raw) != sha256.Size {
		return fmt.Errorf("%q is no hash of an authority: it looks like sha256: and 64 hexadecimal digits", text)
	}
	return nil
}

// String is the token to hand to somebody.
func (t Token) String() string { return t.ID + "." + t.Secret + "." + t.CAHash }

// Bearer is what the API server is shown.
func (t Token) Bearer() string { return t.ID + "." + t.Secret }

// Hash is what a token says of an authority.
func Hash(ca *x509.Certificate) string {
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// HashPEM is Hash of a certificate in PEM.
func HashPEM(data []byte) (string, error) {
	ca, err := parseCertificate(data)
	if err != nil {
		return "", err
	}
	return Hash(ca), nil
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}
