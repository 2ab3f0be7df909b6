package serve

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"sync"

	"github.com/celox/celox/internal/network/ingress/route"
)

const (
	// maxVouched is how many names with passwords are remembered as right, so that slow hashes are computed once.
	maxVouched = 4096
	// maxHashing is how many passwords are looked at at a time: slow hashes must not take the machine.
	maxHashing = 2
)

// vouched remembers what was right: sums over a hash, a name and a password.
type vouched struct {
	mu   sync.Mutex
	sums map[[sha256.Size]byte]bool // guarded by mu
	busy chan struct{}
}

// knows says whether an Authorization header has the name and password of a user.
func (s *Server) knows(b *route.Basic, header string) bool {
	scheme, text, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "basic") {
		return false
	}
	plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return false
	}
	name, password, ok := strings.Cut(string(plain), ":")
	if !ok || len(password) > 72 && !strings.HasPrefix(b.Users[name], "$apr1$") && !strings.HasPrefix(b.Users[name], "{SHA}") {
		return false // bcrypt looks at no more
	}
	hash, ok := b.Users[name]
	if !ok {
		return false
	}
	sum := sha256.Sum256([]byte(hash + "\x00" + name + "\x00" + password))
	v := &s.vouched
	v.mu.Lock()
	known := v.sums[sum]
	v.mu.Unlock()
	if known {
		return true
	}
	v.busy <- struct{}{}
	right := route.CheckPassword(hash, password)
	<-v.busy
	if right {
		v.mu.Lock()
		if len(v.sums) >= maxVouched {
			clear(v.sums)
		}
		v.sums[sum] = true
		v.mu.Unlock()
	}
	return right
}
