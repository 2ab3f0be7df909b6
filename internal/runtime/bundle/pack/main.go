package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: pack PROGRAM DIRECTORY")
		os.Exit(2)
	}
	if err := pack(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func pack(program, dir string) error {
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return err
	}
	base := filepath.Join(dir, filepath.Base(program))
	if err := os.WriteFile(base+".zst", enc.EncodeAll(data, nil), 0o644); err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	return os.WriteFile(base+".sha256", []byte(hex.EncodeToString(sum[:])), 0o644)
}
