package runtime

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// maxID is the largest user or group id; the one above means "no change" to
	// the kernel.
	maxID = 1<<32 - 2
	// maxAccountLine bounds a line of passwd or group; groups can have many
	// members.
	maxAccountLine = 1 << 20
	maxAccountFile = 64 << 20
)

// user is who a container's program runs as.
type user struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
}

// account is a line of /etc/passwd; group one of /etc/group.
type account struct {
	name     string
	uid, gid uint32
}

type group struct {
	name    string
	gid     uint32
	members []string
}

// parseAccounts reads passwd(5). Lines that are no accounts are left out, as
// every libc does.
func parseAccounts(r io.Reader) ([]account, error) {
	var all []account
	err := eachLine(r, func(fields []string) {
		if len(fields) < 4 {
			return
		}
		uid, err1 := parseID(fields[2])
		gid, err2 := parseID(fields[3])
		if err1 == nil && err2 == nil {
			all = append(all, account{fields[0], uid, gid})
		}
	})
	return all, err
}

// parseGroups reads group(5).
func parseGroups(r io.Reader) ([]group, error) {
	var all []group
	err := eachLine(r, func(fields []string) {
		if len(fields) < 3 {
			return
		}
		gid, err := parseID(fields[2])
		if err != nil {
			return
		}
		g := group{name: fields[0], gid: gid}
		if len(fields) > 3 && fields[3] != "" {
			g.members = strings.Split(fields[3], ",")
		}
		all = append(all, g)
	})
	return all, err
}

func eachLine(r io.Reader, f func(fields []string)) error {
	lines := bufio.NewScanner(io.LimitReader(r, maxAccountFile))
	lines.Buffer(nil, maxAccountLine)
	for lines.Scan() {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' || text[0] == '+' || text[0] == '-' {
			continue
		}
		fields := strings.Split(text, ":")
		if fields[0] != "" {
			f(fields)
		}
	}
	return lines.Err()
}

func parseID(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n > maxID {
		return 0, fmt.Errorf("invalid id %q", text)
	}
	return uint32(n), nil
}

// accounts are the user and group files of an image.
type accounts struct {
	users  []account
	groups []group
}

// readAccounts reads /etc/passwd and /etc/group inside a root file system; links
// in it cannot lead out of it. A missing file is empty.
func readAccounts(rootfs string) (accounts, error) {
	var a accounts
	err := openInside(rootfs, "etc/passwd", func(f *os.File) (err error) {
		a.users, err = parseAccounts(f)
		return err
	})
	if err != nil {
		return a, err
	}
	err = openInside(rootfs, "etc/group", func(f *os.File) (err error) {
		a.groups, err = parseGroups(f)
		return err
	})
	return a, err
}

func openInside(rootfs, name string, read func(*os.File) error) error {
	path, err := securejoin.SecureJoin(rootfs, name)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return err
	}
	if err := read(f); err != nil {
		return fmt.Errorf("/%s of the image: %w", name, err)
	}
	return nil
}

// resolveUser finds out who a container runs as: what the pod says, or else what
// the image says ("name", "uid", "name:group", "uid:gid"), as CRI wants it.
func resolveUser(sc *cri.LinuxContainerSecurityContext, imageUser string, a accounts) (user, error) {
	var u user
	var name string
	name, groupName := imageUser, ""
	switch {
	case sc.GetRunAsUser() != nil:
		name = strconv.FormatInt(sc.GetRunAsUser().GetValue(), 10)
	case sc.GetRunAsUsername() != "":
		name = sc.GetRunAsUsername()
	default:
		if sc.GetRunAsGroup() != nil && imageUser == "" {
			return u, errors.New("user group is specified without user")
		}
		name, groupName, _ = strings.Cut(imageUser, ":")
	}
	found, err := a.find(&u, name)
	if err != nil {
		return u, err
	}
	switch {
	case sc.GetRunAsGroup() != nil:
		gid := sc.GetRunAsGroup().GetValue()
		if gid < 0 || gid > maxID {
			return u, fmt.Errorf("invalid group id %d", gid)
		}
		u.GID = uint32(gid)
	case groupName != "":
		if u.GID, err = a.findGroup(groupName); err != nil {
			return u, err
		}
	}
	u.Groups = []uint32{u.GID}
	if sc.GetSupplementalGroupsPolicy() == cri.SupplementalGroupsPolicy_Merge && found != "" {
		for _, g := range a.groups {
			if slices.Contains(g.members, found) {
				u.Groups = append(u.Groups, g.gid)
			}
		}
	}
	for _, g := range sc.GetSupplementalGroups() {
		if g < 0 || g > maxID {
			return u, fmt.Errorf("invalid supplemental group id %d", g)
		}
		u.Groups = append(u.Groups, uint32(g))
	}
	slices.Sort(u.Groups)
	u.Groups = slices.Compact(u.Groups)
	return u, nil
}

// find fills in the ids of a user by name or number and returns its name, if it
// has one.
func (a accounts) find(u *user, name string) (string, error) {
	if name == "" {
		name = "0"
	}
	for _, c := range a.users {
		if c.name == name {
			u.UID, u.GID = c.uid, c.gid
			return c.name, nil
		}
	}
	uid, err := parseID(name)
	if err != nil {
		return "", fmt.Errorf("unable to find user %s: no matching entries in passwd file", name)
	}
	u.UID = uid
	for _, c := range a.users {
		if c.uid == uid {
			u.GID = c.gid
			return c.name, nil
		}
	}
	return "", nil
}

func (a accounts) findGroup(name string) (uint32, error) {
	for _, g := range a.groups {
		if g.name == name {
			return g.gid, nil
		}
	}
	gid, err := parseID(name)
	if err != nil {
		return 0, fmt.Errorf("unable to find group %s: no matching entries in group file", name)
	}
	return gid, nil
}
