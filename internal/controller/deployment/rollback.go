package deployment

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// wantedRevision reads the annotation by which clients of the first APIs ask for an older revision; 0 is the last one before. kubectl doesn't use it, it
// writes the older template.
func wantedRevision(d *appsv1.Deployment) (int64, bool) {
	n, err := strconv.ParseInt(d.Annotations[rollbackAnnotation], 10, 64)
	return n, err == nil
}

func rollbackWanted(d *appsv1.Deployment) bool {
	_, wanted := wantedRevision(d)
	return wanted
}

// rollBack gives the deployment the template of an older revision, tells how that went, and takes the wish back.
func (r *round) rollBack(ctx context.Context) error {
	if err := r.ensureNew(ctx, true); err != nil {
		return err
	}
	if r.newSet == nil {
		return nil // the namespace goes
	}
	want, _ := wantedRevision(r.d)
	updated := r.d.DeepCopy()
	delete(updated.Annotations, rollbackAnnotation)
	kind, reason, message := corev1.EventTypeWarning, "DeploymentRollbackRevisionNotFound", "Unable to find the revision to rollback to."
	if want == 0 {
		if want = lastRevision(r.all); want == 0 {
			message = "Unable to find last revision."
		}
	}
	if i := slices.IndexFunc(r.all, func(rs *appsv1.ReplicaSet) bool { return want != 0 && revisionOf(rs) == want }); i >= 0 {
		rs := r.all[i]
		if sameTemplate(&rs.Spec.Template, &r.d.Spec.Template) {
			reason, message = "DeploymentRollbackTemplateUnchanged", fmt.Sprintf("The rollback revision contains the same template as current deployment %q", r.d.Name)
		} else {
			restore(updated, rs)
			kind, reason, message = corev1.EventTypeNormal, "DeploymentRollback", fmt.Sprintf("Rolled back deployment %q to revision %d", r.d.Name, want)
		}
	}
	if _, err := r.client.AppsV1().Deployments(r.d.Namespace).Update(ctx, updated, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("roll back: %w", err)
	}
	r.recorder.Event(r.d, kind, reason, message)
	return nil // the change comes back
}

// lastRevision is the one before the newest; 0 if there is none.
func lastRevision(all []*appsv1.ReplicaSet) int64 {
	var newest, last int64
	for _, rs := range all {
		switch n := revisionOf(rs); {
		case n > newest:
			newest, last = n, newest
		case n > last:
			last = n
		}
	}
	return last
}

// restore gives a deployment the template of a set, and the annotations that the deployment had then.
func restore(d *appsv1.Deployment, rs *appsv1.ReplicaSet) {
	d.Spec.Template = *rs.Spec.Template.DeepCopy()
	delete(d.Spec.Template.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	annotations := map[string]string{}
	for _, k := range notCopied {
		if v, ok := d.Annotations[k]; ok {
			annotations[k] = v
		}
	}
	then := maps.Clone(rs.Annotations)
	for _, k := range notCopied {
		delete(then, k)
	}
	maps.Copy(annotations, then)
	d.Annotations = annotations
}
