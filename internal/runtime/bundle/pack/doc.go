// Command pack compresses the celox-runtime program for package bundle, and notes its digest:
//
//	pack celox-runtime internal/runtime/bundle/bin
package main
