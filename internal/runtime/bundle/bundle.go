package bundle

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/celox/celox/internal/atomicfile"
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

// digest is that of the program, in hexadecimal.
func digest() (string, error) {
	sum, err := files.ReadFile("bin/" + name + ".sha256")
	if errors.Is(err, fs.ErrNotExist) {
		return "", ErrMissing
	}
	return string(sum), err
}

// program decompresses the program.
func program() ([]byte, error) {
	packed, err := files.ReadFile("bin/" + name + ".zst")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrMissing
	} else if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	data, err := dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("decompressing %s: %w", name, err)
	}
	return data, nil
}

// Version names the content of the embedded program.
func Version() (string, error) {
	sum, err := digest()
	if err != nil {
		return "", err
	}
	return sum[:min(len(sum), versionDigits)], nil
}

// Unpack puts the program into dir, unless the very same is there already, and
// returns its path. The directory should hold nothing else: containers are
// started through an overlay of it.
func Unpack(dir string) (path string, err error) {
	sum, err := digest()
	if err != nil {
		return "", err
	}
	return unpack(dir, sum, program)
}

func unpack(dir, sum string, program func() ([]byte, error)) (string, error) {
	path := filepath.Join(dir, name)
	if have, err := os.ReadFile(path); err == nil && hash(have) == sum {
		return path, os.Chmod(path, 0o755)
	}
	data, err := program()
	if err != nil {
		return "", err
	}
	if hash(data) != sum {
		return "", fmt.Errorf("the %s in this build is not the one that was packed: build it again with make", name)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	f, err := atomicfile.Create(path, 0o755)
	if err != nil {
		return "", err
	}
	// Page by page: what is written in large pieces is cached in large pieces,
	// and then a process that touches one page has megabytes mapped.
	for chunk := range slices.Chunk(data, os.Getpagesize()) {
		if _, err = f.Write(chunk); err != nil {
			break
		}
	}
	if err == nil {
		// A program that runs keeps its old file; the next start gets this one.
		err = f.Place(atomicfile.Synced)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("unpacking %s: %w", name, err)
	}
	return path, nil
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
