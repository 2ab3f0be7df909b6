// Command gen writes the schema of package builtin: it runs in that package's directory (see there).
package main
