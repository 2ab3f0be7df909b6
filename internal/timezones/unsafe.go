package timezones

import _ "unsafe" // for go:linkname

// registerLoadFromEmbeddedTZData is what time/tzdata calls too. The library keeps it for that package, which has no way to bring another table.
//
//go:linkname registerLoadFromEmbeddedTZData time.registerLoadFromEmbeddedTZData
func registerLoadFromEmbeddedTZData(load func(name string) (string, error))
