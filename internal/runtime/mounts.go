package runtime

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// addMounts puts together what a container sees mounted: the kernel's file
// systems, the files of its pod, and its volumes, which win over both.
func addMounts(spec *specs.Spec, in specInput) error {
	sc := in.config.GetLinux().GetSecurityContext()
	access := "ro"
	if sc.GetPrivileged() {
		access = "rw"
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", access}},
	}
	bind := func(source, destination string, options ...string) {
		if source != "" {
			mounts = append(mounts, specs.Mount{Destination: destination, Type: "bind", Source: source, Options: append([]string{"rbind", "rprivate"}, options...)})
		}
	}
	bind(in.shm, "/dev/shm", "rw", "nosuid", "noexec", "nodev")
	fileAccess := "rw"
	if sc.GetReadonlyRootfs() {
		fileAccess = "ro"
	}
	bind(in.hostname, "/etc/hostname", fileAccess)
	bind(in.resolvConf, "/etc/resolv.conf", fileAccess)
	bind(in.hosts, "/etc/hosts", fileAccess)

	volumes, err := volumeMounts(spec, in)
	if err != nil {
		return err
	}
	taken := map[string]bool{}
	for _, v := range volumes {
		taken[v.Destination] = true
	}
	mounts = slices.DeleteFunc(mounts, func(m specs.Mount) bool {
		return taken[m.Destination] || taken["/dev"] && strings.HasPrefix(m.Destination, "/dev/") || taken["/sys"] && strings.HasPrefix(m.Destination, "/sys/")
	})
	spec.Mounts = append(mounts, volumes...)
	return nil
}

// volumeMounts translates the volumes, parents before what is mounted on them.
func volumeMounts(spec *specs.Spec, in specInput) ([]specs.Mount, error) {
	wanted := slices.Clone(in.config.GetMounts())
	slices.SortStableFunc(wanted, func(a, b *cri.Mount) int {
		return strings.Count(filepath.Clean(a.GetContainerPath()), "/") - strings.Count(filepath.Clean(b.GetContainerPath()), "/")
	})
	var out []specs.Mount
	for _, m := range wanted {
		if !filepath.IsAbs(m.GetContainerPath()) {
			return nil, fmt.Errorf("mount path %q in the container is not absolute", m.GetContainerPath())
		}
		if m.GetImage() != nil {
			continue // mounted by the service, see imageVolumes
		}
		source, err := mountSource(m.GetHostPath())
		if err != nil {
			return nil, err
		}
		options := []string{"rbind"}
		switch m.GetPropagation() {
		case cri.MountPropagation_PROPAGATION_BIDIRECTIONAL:
			info, err := in.host.mountOf(source)
			if err != nil {
				return nil, err
			}
			if !info.shared {
				return nil, fmt.Errorf("path %q is mounted on %q but it is not a shared mount", source, info.point)
			}
			options = append(options, "rshared")
			spec.Linux.RootfsPropagation = "rshared"
		case cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
			options = append(options, "rslave")
			if spec.Linux.RootfsPropagation == "" {
				spec.Linux.RootfsPropagation = "rslave"
			}
		default:
			options = append(options, "rprivate")
		}
		switch {
		case m.GetRecursiveReadOnly():
			if !m.GetReadonly() || m.GetPropagation() != cri.MountPropagation_PROPAGATION_PRIVATE {
				return nil, errors.New("recursive read-only mounts must be read-only and private")
			}
			options = append(options, "rro")
		case m.GetReadonly():
			options = append(options, "ro")
		default:
			options = append(options, "rw")
		}
		options = append(options, m.GetMountOptions()...)
		out = append(out, specs.Mount{Destination: filepath.Clean(m.GetContainerPath()), Type: "bind", Source: source, Options: options})
	}
	return out, nil
}

// mountSource follows links, and makes a missing directory: volumes of type
// hostPath without a type rely on that.
func mountSource(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("mount source %q is not an absolute path", path)
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err == nil {
		return resolved, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("failed to resolve symlink %q: %w", path, err)
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", fmt.Errorf("failed to mkdir %q: %w", path, err)
	}
	return filepath.EvalSymlinks(path)
}

// mountInfo is a line of /proc/PID/mountinfo.
type mountInfo struct {
	point  string
	shared bool
}

// parseMountInfo reads proc_pid_mountinfo(5).
func parseMountInfo(r io.Reader) ([]mountInfo, error) {
	var all []mountInfo
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxAccountLine)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 7 {
			continue
		}
		m := mountInfo{point: unescapeMount(fields[4])}
		for _, f := range fields[6:] {
			if f == "-" {
				break
			}
			if strings.HasPrefix(f, "shared:") {
				m.shared = true
			}
		}
		all = append(all, m)
	}
	return all, lines.Err()
}

// unescapeMount undoes the kernel's octal escapes of blanks and backslashes.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1]) && isOctal(s[i+2]) && isOctal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isOctal(c byte) bool { return c >= '0' && c <= '7' }

func readMountInfo() ([]mountInfo, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMountInfo(f)
}

// findMount returns the mount that a path is on: the last one whose point is
// the path or above it.
func findMount(all []mountInfo, path string) (mountInfo, bool) {
	var best mountInfo
	found := false
	for _, m := range all {
		if (path == m.point || m.point == "/" || strings.HasPrefix(path, m.point+"/")) && len(m.point) >= len(best.point) {
			best, found = m, true
		}
	}
	return best, found
}

func mountOf(path string) (mountInfo, error) {
	all, err := readMountInfo()
	if err != nil {
		return mountInfo{}, err
	}
	m, ok := findMount(all, path)
	if !ok {
		return m, fmt.Errorf("no mount found for %q", path)
	}
	return m, nil
}
