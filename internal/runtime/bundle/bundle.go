package bundle

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

//go:embed all:bin
var files embed.FS

const (
	name = "celox-runtime"
	// versionDigits of the digest name a version of the program.
	versionDigits = 16
)

// ErrMissing says that this celox was compiled without the program.
var ErrMissing = errors.New("this build of celox does not contain the celox-runtime program: build it with make")

func program() ([]byte, error) {
	data, err := files.ReadFile("bin/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrMissing
	}
	return data, err
}

// Version names the content of the embedded program.
func Version() (string, error) {
	data, err := program()
	if err != nil {
		return "", err
	}
	return version(data), nil
}

func version(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])[:versionDigits]
}

// Unpack puts the program into dir, unless the very same is there already, and
// returns its path. The directory should hold nothing else: containers are
// started through an overlay of it.
func Unpack(dir string) (path string, err error) {
	data, err := program()
	if err != nil {
		return "", err
	}
	return unpack(dir, data)
}

func unpack(dir string, data []byte) (string, error) {
	path := filepath.Join(dir, name)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) {
		return path, os.Chmod(path, 0o755)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.CreateTemp(dir, "."+name+"-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp.Name()) // nothing to remove once it is renamed
	// Page by page: what is written in large pieces is cached in large pieces,
	// and then a process that touches one page has megabytes mapped.
	for chunk := range slices.Chunk(data, os.Getpagesize()) {
		if _, err = tmp.Write(chunk); err != nil {
			break
		}
	}
	if err == nil {
		err = tmp.Chmod(0o755)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		// A program that runs keeps its old file; the next start gets this one.
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return "", fmt.Errorf("unpacking %s: %w", name, err)
	}
	return path, nil
}
