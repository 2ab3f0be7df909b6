// Package batch holds the kinds of the API group batch: Job and CronJob.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package batch
