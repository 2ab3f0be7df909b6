package vm

import (
	"bytes"
	"fmt"
)

// archive writes the kernel's initial file system, a cpio archive of the "newc" form (Documentation/driver-api/early-userspace).
type archive struct {
	buf   bytes.Buffer
	inode int
}

const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeChar = 0o020000
)

func (a *archive) add(name string, mode uint32, data []byte, major, minor uint32) {
	a.inode++
	fmt.Fprintf(&a.buf, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	a.pad()
	a.buf.Write(data)
	a.pad()
}

func (a *archive) pad() {
	for a.buf.Len()%4 != 0 {
		a.buf.WriteByte(0)
	}
}

func (a *archive) dir(name string) { a.add(name, typeDir|0o755, nil, 0, 0) }

func (a *archive) file(name string, data []byte) { a.add(name, typeFile|0o755, data, 0, 0) }

func (a *archive) bytes() []byte {
	a.add("TRAILER!!!", 0, nil, 0, 0)
	return a.buf.Bytes()
}

// initramfs loads what the machine needs to see its disk, and goes on from there.
func initramfs(busybox []byte, modules []module) []byte {
	a := &archive{}
	for _, d := range []string{"bin", "dev", "proc", "modules", "disk"} {
		a.dir(d)
	}
	a.add("dev/console", typeChar|0o600, nil, 5, 1)
	a.file("bin/busybox", busybox)
	script := "#!/bin/busybox sh\nbb=/bin/busybox\n$bb mount -t devtmpfs dev /dev\n"
	for _, m := range modules {
		a.file("modules/"+m.name, m.data)
		script += "$bb insmod /modules/" + m.name + " || echo 'cannot load " + m.name + "'\n"
	}
	script += `for i in $($bb seq 100); do [ -b /dev/vda ] && break; $bb sleep 0.1; done
$bb mount -t ext4 /dev/vda /disk || exec $bb poweroff -f
$bb mount --move /dev /disk/dev
exec $bb switch_root /disk /sbin/init
`
	a.file("init", []byte(script))
	return a.bytes()
}
