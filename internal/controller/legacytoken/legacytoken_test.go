package legacytoken

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	day = 24 * time.Hour
	key = metav1.NamespaceSystem + "/" + trackingName
)

func start(t *testing.T) *controllertest.Env {
	t.Helper()
	e := controllertest.Start(t)
	if _, err := e.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return e
}

// endsUnstarted ends the queue of a controller whose steps the test takes itself.
func endsUnstarted(t *testing.T, ctl interface{ Run(context.Context) error }) {
	t.Cleanup(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		if err := ctl.Run(ended); err != nil {
			t.Error(err)
		}
	})
}

func TestTracker(t *testing.T) {
	t.Parallel()
	e := start(t)
	ctx := context.Background()
	clk := clocktesting.NewFakePassiveClock(time.Date(2027, 3, 4, 23, 0, 0, 0, time.FixedZone("west", -3*3600))) // the 5th in UTC
	ctl, err := NewTracker(e.Client, e.Informers, clk, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	api := e.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	says := func(want string) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			m, err := api.Get(ctx, trackingName, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if m.Data[since] != want {
				return fmt.Errorf("since %q, want %q", m.Data[since], want)
			}
			return nil
		})
	}
	e.Run(t, ctl)
	says("2027-03-05")
	clk.SetTime(clk.Now().Add(2 * day))
	m, err := api.Get(ctx, trackingName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.Data = map[string]string{since: "some day"}
	if _, err := api.Update(ctx, m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	says("2027-03-07")
}

func TestTrackerDoesNotQuarrel(t *testing.T) {
	t.Parallel()
	e := start(t)
	ctx := context.Background()
	clk := clocktesting.NewFakePassiveClock(time.Date(2027, 3, 5, 0, 0, 0, 0, time.UTC))
	ctl, err := NewTracker(e.Client, e.Informers, clk, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	endsUnstarted(t, ctl)
	e.Run(t) // the informers alone: each step is taken here
	controllertest.Eventually(t, func() error {
		if !e.Informers.Core().V1().ConfigMaps().Informer().HasSynced() {
			return errors.New("not synced")
		}
		return nil
	})
	api := e.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	there := func(want bool) {
		t.Helper()
		if err := ctl.Reconcile(ctx, key); err != nil {
			t.Fatal(err)
		}
		if _, err := api.Get(ctx, trackingName, metav1.GetOptions{}); (err == nil) != want {
			t.Fatalf("there: %v, want %v", err, want)
		}
	}
	there(true)
	controllertest.Eventually(t, func() error { _, err := ctl.maps.ConfigMaps(metav1.NamespaceSystem).Get(trackingName); return err })
	if err := api.Delete(ctx, trackingName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error {
		if _, err := ctl.maps.ConfigMaps(metav1.NamespaceSystem).Get(trackingName); !apierrors.IsNotFound(err) {
			return errors.New("the cache still has it")
		}
		return nil
	})
	there(false)
	clk.SetTime(clk.Now().Add(creationPause))
	there(true)
}

func TestIdle(t *testing.T) {
	t.Parallel()
	now := time.Date(2027, 3, 5, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name   string
		change func(*corev1.Secret)
		want   bool
	}{
		{"old and never used", func(*corev1.Secret) {}, true},
		{"another kind of secret", func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }, false},
		{"young", func(s *corev1.Secret) { s.CreationTimestamp = metav1.NewTime(now.Add(-unused)) }, false},
		{"going", func(s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{Time: now} }, false},
		{"used long ago", func(s *corev1.Secret) { s.Labels = map[string]string{lastUsed: "2026-03-04"} }, true},
		{"used a year ago", func(s *corev1.Secret) { s.Labels = map[string]string{lastUsed: "2026-03-05"} }, false},
		{"used lately", func(s *corev1.Secret) { s.Labels = map[string]string{lastUsed: "2027-03-01"} }, false},
		{"a label that is no day", func(s *corev1.Secret) { s.Labels = map[string]string{lastUsed: "1"} }, false},
	} {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-2 * unused))}, Type: corev1.SecretTypeServiceAccountToken}
		tt.change(s)
		if got := idle(s, now); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestCollect(t *testing.T) {
	t.Parallel()
	local := func(name string) *corev1.LocalObjectReference { return &corev1.LocalObjectReference{Name: name} }
	env := func(name string) []corev1.EnvVar {
		return []corev1.EnvVar{{Name: "e", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: *local(name)}}}}
	}
	volume := func(v corev1.VolumeSource) corev1.Volume { return corev1.Volume{Name: "v", VolumeSource: v} }
	spec := &corev1.PodSpec{
		ImagePullSecrets: []corev1.LocalObjectReference{*local("pull")},
		InitContainers:   []corev1.Container{{Env: env("init")}},
		Containers:       []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: *local("from")}}}}},
		EphemeralContainers: []corev1.EphemeralContainer{{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{Env: env("ephemeral")},
		}},
		Volumes: []corev1.Volume{
			volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "secret"}}),
			volume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{Secret: &corev1.SecretProjection{LocalObjectReference: *local("projected")}}}}}),
			volume(corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{NodePublishSecretRef: local("csi")}}),
			volume(corev1.VolumeSource{FlexVolume: &corev1.FlexVolumeSource{SecretRef: local("flex")}}),
			volume(corev1.VolumeSource{AzureFile: &corev1.AzureFileVolumeSource{SecretName: "azure"}}),
			volume(corev1.VolumeSource{CephFS: &corev1.CephFSVolumeSource{SecretRef: local("ceph")}}),
			volume(corev1.VolumeSource{Cinder: &corev1.CinderVolumeSource{SecretRef: local("cinder")}}),
			volume(corev1.VolumeSource{RBD: &corev1.RBDVolumeSource{SecretRef: local("rbd")}}),
			volume(corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{SecretRef: local("iscsi")}}),
			volume(corev1.VolumeSource{ScaleIO: &corev1.ScaleIOVolumeSource{SecretRef: local("scaleio")}}),
			volume(corev1.VolumeSource{StorageOS: &corev1.StorageOSVolumeSource{SecretRef: local("storageos")}}),
			volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}),
		},
	}
	got := map[string]bool{}
	collect(spec, func(name string) { got[name] = true })
	want := []string{"azure", "ceph", "cinder", "csi", "ephemeral", "flex", "from", "init", "iscsi", "projected", "pull", "rbd", "scaleio", "secret", "storageos"}
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}

func TestCleaner(t *testing.T) {
	t.Parallel()
	e := start(t)
	ctx := context.Background()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	core := e.Client.CoreV1()
	account, err := core.ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Name: "a"}, Secrets: []corev1.ObjectReference{{Name: "unused"}, {Name: "named"}, {Name: "foreign"}},
	}, metav1.CreateOptions{})
	must(err)
	for name, annotations := range map[string]map[string]string{
		"unused":  {corev1.ServiceAccountNameKey: "a", corev1.ServiceAccountUIDKey: string(account.UID)},
		"named":   {corev1.ServiceAccountNameKey: "a"},
		"manual":  {corev1.ServiceAccountNameKey: "a"},
		"foreign": {corev1.ServiceAccountNameKey: "a", corev1.ServiceAccountUIDKey: "another"},
		"lonely":  {corev1.ServiceAccountNameKey: "b"},
	} {
		_, err := core.Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}, Type: corev1.SecretTypeServiceAccountToken}, metav1.CreateOptions{})
		must(err)
	}
	_, err = core.Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{
		Containers:       []corev1.Container{{Name: "c", Image: "i"}},
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "named"}},
	}}, metav1.CreateOptions{})
	must(err)
	begin := time.Now()
	clk := clocktesting.NewFakePassiveClock(begin)
	ctl, err := NewCleaner(e.Client, e.Informers, clk, nil, nil)
	must(err)
	endsUnstarted(t, ctl)
	e.Run(t)
	cached := func(check func(map[string]string) error) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			secrets, err := ctl.secrets.List(labels.Everything())
			if err != nil {
				return err
			}
			pods, err := ctl.pods.List(labels.Everything())
			if err != nil {
				return err
			}
			if _, err := ctl.accounts.ServiceAccounts("default").Get("a"); err != nil || len(pods) != 1 {
				return fmt.Errorf("not all is here yet: %v, %d pods", err, len(pods))
			}
			marks := map[string]string{}
			for _, s := range secrets {
				marks[s.Name] = s.Labels[invalidSince]
			}
			return check(marks)
		})
	}
	are := func(want map[string]string) {
		t.Helper()
		cached(func(got map[string]string) error {
			if !maps.Equal(got, want) {
				return fmt.Errorf("got %v, want %v", got, want)
			}
			return nil
		})
	}
	all := map[string]string{"unused": "", "named": "", "manual": "", "foreign": "", "lonely": ""}
	are(all)
	look := func(at time.Time) {
		t.Helper()
		clk.SetTime(at)
		must(ctl.Reconcile(ctx, "all"))
	}
	later := begin.Add(unused + 3*day)
	look(later) // nobody says since when uses are noted
	_, err = core.ConfigMaps(metav1.NamespaceSystem).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: trackingName},
		Data: map[string]string{since: later.Add(-unused).UTC().Format(dateFormat)}}, metav1.CreateOptions{})
	must(err)
	look(later) // not for long enough
	are(all)
	marked := later.Add(2 * day)
	look(marked)
	all["unused"] = marked.UTC().Format(dateFormat)
	are(all)
	look(marked.Add(unused)) // a year to the day
	are(all)
	look(marked.Add(unused + day))
	delete(all, "unused")
	are(all)
}
