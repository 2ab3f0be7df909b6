// Package apply turns patches into objects and keeps account of who owns which fields (metadata.managedFields; KEP-555,
// server-side apply). It knows Go types, schemas and patch formats. It must not know users, storage, admission or HTTP beyond the errors that
// the API answers with.
package apply
