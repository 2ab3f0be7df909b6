// Package cronjob starts Jobs at the times that CronJobs name, and keeps the history of those that ended. It does not know how a Job runs.
package cronjob
