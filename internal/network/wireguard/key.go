package wireguard

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/celox/celox/internal/atomicfile"
)

// Key is a public key.
type Key [wgtypes.KeyLen]byte

// IsZero says that there is no key.
func (k Key) IsZero() bool { return k == Key{} }

// String is the key as tools print it: in base64.
func (k Key) String() string {
	if k.IsZero() {
		return ""
	}
	return base64.StdEncoding.EncodeToString(k[:])
}

// ParseKey reads what String wrote.
func ParseKey(text string) (Key, error) {
	k, err := wgtypes.ParseKey(text)
	if err != nil {
		return Key{}, fmt.Errorf("%q is no WireGuard key: %w", text, err)
	}
	if Key(k).IsZero() {
		return Key{}, errors.New("the WireGuard key is all zeros")
	}
	return Key(k), nil
}

// PrivateKey is the secret of this machine.
type PrivateKey struct{ k wgtypes.Key }

// Public is what others may know of it.
func (p PrivateKey) Public() Key { return Key(p.k.PublicKey()) }

// String does not tell the secret.
func (p PrivateKey) String() string { return "(secret)" }

// LoadKey reads the machine's key from a file that root alone can read, or makes it where there is none. A damaged file is no reason to stop: a new key costs
// nothing but that the others learn it, and made says so.
func LoadKey(path string) (key PrivateKey, made bool, err error) {
	data, err := os.ReadFile(path)
	if err == nil {
		if k, err := wgtypes.ParseKey(strings.TrimSpace(string(data))); err == nil && k != (wgtypes.Key{}) {
			return PrivateKey{k}, false, os.Chmod(path, 0o600)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return PrivateKey{}, false, fmt.Errorf("key of WireGuard: %w", err)
	}
	k, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return PrivateKey{}, false, fmt.Errorf("make a key of WireGuard: %w", err)
	}
	if err := write(path, []byte(k.String()+"\n")); err != nil {
		return PrivateKey{}, false, fmt.Errorf("keep the key of WireGuard: %w", err)
	}
	return PrivateKey{k}, true, nil
}

// write replaces a file as a whole; nobody but its owner may ever read it.
func write(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(path, data, 0o600, atomicfile.Synced)
}
