// Package checkpoint keeps what a part of the node agent must not forget in a file: JSON with the version of its form. A file that was written by a form that
// isn't known is refused, because what it says cannot be undone by guessing: devices would be given twice, or stay prepared for ever.
package checkpoint
