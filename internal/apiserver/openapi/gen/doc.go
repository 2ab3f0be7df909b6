// Command gen makes the OpenAPI documents that package openapi embeds. It runs in the directory of package openapi:
//
//	go generate ./internal/apiserver/openapi
//
// First the definitions of all API types are generated as Go source from their comments (kube-openapi's generator), into a
// directory that is removed again; then gen/testdata/render, built together with them, writes the documents into data/.
package main
