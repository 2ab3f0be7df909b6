// Package wire writes and reads the JSON of Go types faster than encoding/json does, and to the letter as it does. For each type a plan is
// made once: where its fields are and how each is written and read. What a plan does not understand is left to encoding/json while writing;
// while reading, any doubt at all (an unknown field, one that comes twice, a value of another type, an escape that is rare, a document
// that is no JSON) makes Read give up, so that a library with words for it can say what is wrong.
//
// It knows JSON and Go types, those of times and quantities by name. It must not know kinds, versions or HTTP.
package wire
