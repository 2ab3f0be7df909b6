package openapi

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Raw returns a built-in v3 document ("apis/apps/v1") as JSON.
func Raw(document string) ([]byte, error) {
	return unpack("data/v3/" + strings.ReplaceAll(document, "/", "_") + ".json.gz")
}

// unpack reads an embedded file.
func unpack(file string) ([]byte, error) {
	f, err := data.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("reading the embedded %s: %w", file, err)
	}
	doc, err := io.ReadAll(z)
	if err != nil {
		return nil, fmt.Errorf("reading the embedded %s: %w", file, err)
	}
	return doc, nil
}

// Models returns the schemas of a built-in v3 document by name, read afresh. They are large: whoever asks should make of them what
// it needs and let them go.
func Models(document string) (map[string]*spec.Schema, error) {
	raw, err := Raw(document)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Components struct {
			Schemas map[string]*spec.Schema `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("reading the embedded document %s: %w", document, err)
	}
	return doc.Components.Schemas, nil
}
