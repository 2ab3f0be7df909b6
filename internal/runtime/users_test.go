package runtime

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	passwdText = "root:x:0:0:root:/root:/bin/sh\n# comment\n\n+nis\nbroken\napp:x:1000:1001::/home/app:/bin/sh\nbig:x:4294967295:0::/:\n"
	groupText  = "root:x:0:\napp:x:1001:\nwheel:x:10:root,app\nnone:x:x:\nextra:x:20:app,other\n"
)

func testAccounts(t testing.TB) accounts {
	t.Helper()
	users, err := parseAccounts(strings.NewReader(passwdText))
	if err != nil {
		t.Fatal(err)
	}
	groups, err := parseGroups(strings.NewReader(groupText))
	if err != nil {
		t.Fatal(err)
	}
	return accounts{users, groups}
}

func TestResolveUser(t *testing.T) {
	a := testAccounts(t)
	if len(a.users) != 2 || len(a.groups) != 4 {
		t.Fatalf("accounts %+v", a)
	}
	id := func(n int64) *cri.Int64Value { return &cri.Int64Value{Value: n} }
	tests := []struct {
		name  string
		sc    *cri.LinuxContainerSecurityContext
		image string
		want  user
		fails string
	}{
		{name: "nothing said", want: user{0, 0, []uint32{0, 10}}},
		{name: "image name", image: "app", want: user{1000, 1001, []uint32{10, 20, 1001}}},
		{name: "image number", image: "1000", want: user{1000, 1001, []uint32{10, 20, 1001}}},
		{name: "image unknown number", image: "77", want: user{77, 0, []uint32{0}}},
		{name: "image with group", image: "app:wheel", want: user{1000, 10, []uint32{10, 20}}},
		{name: "image with unknown group number", image: "5:6", want: user{5, 6, []uint32{6}}},
		{name: "image unknown name", image: "ghost", fails: "unable to find user ghost"},
		{name: "image unknown group", image: "app:ghosts", fails: "unable to find group ghosts"},
		{name: "pod number wins", sc: &cri.LinuxContainerSecurityContext{RunAsUser: id(1000)}, image: "root:wheel", want: user{1000, 1001, []uint32{10, 20, 1001}}},
		{name: "pod group", sc: &cri.LinuxContainerSecurityContext{RunAsUser: id(9), RunAsGroup: id(8), SupplementalGroups: []int64{7, 8, 7}}, want: user{9, 8, []uint32{7, 8}}},
		{name: "pod name", sc: &cri.LinuxContainerSecurityContext{RunAsUsername: "app"}, want: user{1000, 1001, []uint32{10, 20, 1001}}},
		{name: "strict", sc: &cri.LinuxContainerSecurityContext{RunAsUsername: "app", SupplementalGroups: []int64{5}, SupplementalGroupsPolicy: cri.SupplementalGroupsPolicy_Strict}, want: user{1000, 1001, []uint32{5, 1001}}},
		{name: "group alone", sc: &cri.LinuxContainerSecurityContext{RunAsGroup: id(1)}, fails: "user group is specified without user"},
		{name: "negative", sc: &cri.LinuxContainerSecurityContext{RunAsUser: id(-1)}, fails: "unable to find user -1"},
		{name: "too large group", sc: &cri.LinuxContainerSecurityContext{RunAsUser: id(1), SupplementalGroups: []int64{1 << 32}}, fails: "invalid supplemental group"},
	}
	for _, tt := range tests {
		got, err := resolveUser(tt.sc, tt.image, a)
		if tt.fails != "" {
			if err == nil || !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("%s: error %v, want %q", tt.name, err, tt.fails)
			}
			continue
		}
		if err != nil || got.UID != tt.want.UID || got.GID != tt.want.GID || !slices.Equal(got.Groups, tt.want.Groups) {
			t.Errorf("%s: %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
	}
}

func TestAccountsStayInsideTheImage(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "real"), []byte("inside:x:5:5:::\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"etc/passwd": "/real", "etc/group": "../../../../../etc/resolv.conf"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	a, err := readAccounts(dir)
	if err != nil || len(a.users) != 1 || a.users[0].name != "inside" || len(a.groups) != 0 {
		t.Errorf("%+v, %v", a, err)
	}
}

func FuzzAccounts(f *testing.F) {
	f.Add(passwdText)
	f.Add(groupText)
	f.Add("a:b:c:d\n:::\nx:x:1:1")
	f.Fuzz(func(t *testing.T, text string) {
		users, err := parseAccounts(strings.NewReader(text))
		if err != nil {
			return
		}
		groups, err := parseGroups(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, u := range users {
			got, err := resolveUser(&cri.LinuxContainerSecurityContext{RunAsUsername: u.name}, "", accounts{users, groups})
			if err != nil {
				t.Fatalf("user %q that is there: %v", u.name, err)
			}
			if got.UID > maxID || len(got.Groups) == 0 || !slices.IsSorted(got.Groups) {
				t.Fatalf("user %q is %+v", u.name, got)
			}
		}
	})
}

func FuzzMountInfo(f *testing.F) {
	f.Add("22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw\n27 1 254:0 / / rw - ext4 /dev/vda rw\n30 27 0:1 / /a\\040b rw master:1 - tmpfs t rw\n")
	f.Add("\\1\\")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parseMountInfo(strings.NewReader(text))
		if err != nil {
			return
		}
		if m, ok := findMount(all, "/a b/c"); ok && m.point != "/" && !strings.HasPrefix("/a b/c", m.point) {
			t.Fatalf("found %q", m.point)
		}
	})
}
