// Command render writes the OpenAPI documents. It is run by gen, which has just generated the definitions.
package main
