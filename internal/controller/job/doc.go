// Package job runs pods to completion: Jobs with a number of completions, work queues and indexed Jobs, their failure and success policies,
// suspension and deadlines; it deletes finished Jobs when their time to live is over. It does not know CronJobs.
//
// Counting is exact although pods vanish: each pod carries a finalizer until its end has been written to the Job's status. First the uid of an
// ended pod is written to status.uncountedTerminatedPods, then its finalizer is removed, and then the uid becomes one more in a counter (KEP-2307).
package job
