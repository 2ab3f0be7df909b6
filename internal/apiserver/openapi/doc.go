// Package openapi serves the OpenAPI documents of the built-in kinds: /openapi/v2 (JSON and gnostic protobuf) and /openapi/v3
// with one document per group version (KEP-2896). The documents are made at build time by gen (go generate) and embedded
// compressed: a client that takes gzip gets the bytes as they lie in the binary, another has them unpacked while they are sent, and
// nothing stays in memory. Documents of custom resources are added at run time.
//
// It knows nothing of the kinds themselves; what a document says was decided when it was made.
package openapi
