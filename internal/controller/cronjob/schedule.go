package cronjob

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/api/batch/cron"
)

// manyMissed is from how many missed starts on a CronJob warns: somebody stopped the clock, or the controller, for long.
const manyMissed = 100

// schedule is when a CronJob is due, in its time zone.
type schedule struct {
	cron.Schedule
	zone *time.Location
}

func (s schedule) next(t time.Time) time.Time { return s.Next(t.In(s.zone)) }

// parse reads the schedule and its time zone. It is a problem of the object, not of the controller, when that fails.
func parse(cj *batchv1.CronJob) (schedule, error) {
	zone := time.Local
	if cj.Spec.TimeZone != nil {
		var err error
		if zone, err = time.LoadLocation(*cj.Spec.TimeZone); err != nil {
			return schedule{}, &zoneError{*cj.Spec.TimeZone, err}
		}
	}
	s, err := cron.Parse(cj.Spec.Schedule)
	if err != nil {
		return schedule{}, fmt.Errorf("unparseable schedule: %q : %w", cj.Spec.Schedule, err)
	}
	return schedule{s, zone}, nil
}

// zoneError says that a time zone is not known on this machine.
type zoneError struct {
	name string
	err  error
}

func (e *zoneError) Error() string { return fmt.Sprintf("invalid timeZone: %q: %v", e.name, e.err) }
func (e *zoneError) Unwrap() error { return e.err }

// due returns the last time at or before now at which a job should have been started and was not, or the zero time; and whether very many
// were missed. Times before the starting deadline do not count.
func due(cj *batchv1.CronJob, s schedule, now time.Time) (last time.Time, many bool) {
	earliest := since(cj)
	if d := cj.Spec.StartingDeadlineSeconds; d != nil {
		if limit := now.Add(-time.Duration(*d) * time.Second); limit.After(earliest) {
			earliest = limit
		}
	}
	if last, n, ok := s.Latest(earliest, now); ok {
		return last, n > manyMissed
	}
	// After a long pause the times are too many to walk: jump near to now first, by halves, as Next finds its way from any time.
	missed := 0
	for t := s.next(earliest); !t.IsZero() && !t.After(now); t = s.next(t) {
		last = t
		if missed++; missed > manyMissed {
			many = true
			if jump := now.Add(-now.Sub(t) / 2); jump.After(t) && now.Sub(jump) > time.Hour {
				if next := s.next(jump); !next.IsZero() && !next.After(now) {
					t = jump
				}
			}
		}
	}
	return last, many
}

// since is from when on starts are counted: the last one, or when the CronJob was made.
func since(cj *batchv1.CronJob) time.Time {
	if cj.Status.LastScheduleTime != nil {
		return cj.Status.LastScheduleTime.Time
	}
	return cj.CreationTimestamp.Time
}

// nextIn is how long it is until the next start after now. What is due every so often is counted from the last start, not from when somebody looks.
func nextIn(cj *batchv1.CronJob, s schedule, now time.Time) (time.Duration, bool) {
	from := now
	if last, n, ok := s.Latest(since(cj), now); ok && n == 0 {
		from = since(cj)
	} else if ok {
		from = last
	}
	t := s.next(from)
	if t.IsZero() {
		return 0, false // such as the 30th of February
	}
	return t.Sub(now), true
}

// jobFor makes the Job of a start. Its name follows from the time, so that no time is started twice.
// The annotation says it in the zone of the schedule.
func jobFor(cj *batchv1.CronJob, at time.Time) *batchv1.Job {
	t := cj.Spec.JobTemplate.DeepCopy()
	if t.Annotations == nil {
		t.Annotations = map[string]string{}
	}
	if cj.Spec.TimeZone == nil {
		at = at.UTC() // as it is said elsewhere, wherever the machine is
	}
	t.Annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.Format(time.RFC3339)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Name: nameFor(cj, at), Namespace: cj.Namespace, Labels: t.Labels, Annotations: t.Annotations,
			CreationTimestamp: metav1.Time{Time: at}, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cj, kind)},
		},
		Spec: t.Spec,
	}
}

func nameFor(cj *batchv1.CronJob, at time.Time) string {
	return fmt.Sprintf("%s-%d", cj.Name, at.Unix()/60)
}
