// Package owner decides who owns an object: which candidates a controller keeps, adopts and releases, by controller reference and
// selector. It is a function of its inputs; the controllers carry the decision out.
package owner
