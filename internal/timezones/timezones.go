package timezones

import (
	"archive/zip"
	"bytes"
	_ "embed"
	"fmt"
	"io"
	"sync"
	"syscall"

	"github.com/klauspost/compress/zstd"
)

//go:generate go run ./pack zoneinfo.zst

//go:embed zoneinfo.zst
var packed []byte

// Register lets time.LoadLocation find every zone, the machine's own files first. It is called once, before anybody asks for a zone.
func Register() { registerLoadFromEmbeddedTZData(load) }

// table unpacks the zones, for good: who asked for one asks again.
var table = sync.OnceValues(func() (*zip.Reader, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	data, err := dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("unpacking the table of time zones: %w", err)
	}
	return zip.NewReader(bytes.NewReader(data), int64(len(data)))
})

// load returns a zone's file. The standard library knows ENOENT, and nothing else, as the answer that there is none.
func load(name string) (string, error) {
	zones, err := table()
	if err != nil {
		return "", err
	}
	for _, zone := range zones.File {
		if zone.Name != name {
			continue
		}
		f, err := zone.Open()
		if err != nil {
			return "", err
		}
		defer f.Close()
		b, err := io.ReadAll(f)
		return string(b), err
	}
	return "", syscall.ENOENT
}
