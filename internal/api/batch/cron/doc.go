// Package cron reads the schedules of CronJobs (five fields as crontab(5) has them, "@hourly" and its kin, "@every 1h30m") and
// computes when they are due. Whoever validates a schedule and whoever acts on it use the same parser.
//
// It knows no clock and no time zone but what it is given.
package cron
