// Package builtin has the schema of the built-in types as managed fields need it, prepared when Celox is built: the library that it comes from has it in
// YAML, which takes a tenth of a second and half a million allocations to read. It knows the form of the schema and nothing of objects.
//
//	go generate ./internal/apiserver/apply/builtin   // after a new version of the library; a test says when
package builtin
