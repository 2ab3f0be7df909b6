// Package lookuptest gives tests a small store in memory that package lookup reads from, without the rest of an API server.
package lookuptest
