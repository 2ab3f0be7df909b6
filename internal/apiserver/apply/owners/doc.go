// Package owners knows entries of metadata.managedFields: their order, what they own, and how the entries of one write follow from those of
// the write before. It remembers what the library of server-side apply said, so that the library need not be asked twice about the like. It
// must not know objects or schemas: packages apply (Go types) and custom (JSON values) describe changes to it as outlines of bytes.
package owners
