package holder

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// ProcStat is what is needed of /proc/PID/stat.
type ProcStat struct {
	// Name is that of the program, cut to 15 bytes. A process may change its own.
	Name string
	// State is 'Z' for a process that has ended and was not waited for.
	State byte
	// Parent is the pid of its parent.
	Parent int
	// StartTicks is when the process began, in clock ticks since boot: together
	// with its pid it names a process for as long as the machine runs.
	StartTicks uint64
	// StartCode is where its program begins in its memory; 0 while the kernel loads
	// that.
	StartCode uint64
	// ExitCode of an ended process, as wait(2) reports it.
	ExitCode int32
}

// ReadProcStat reads the status of a process.
func ReadProcStat(pid int) (ProcStat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ProcStat{}, err
	}
	return parseProcStat(data)
}

// parseProcStat parses proc_pid_stat(5). The command name in it may hold
// anything, so the fields are counted from its closing parenthesis.
func parseProcStat(data []byte) (ProcStat, error) {
	const (
		firstField  = 3 // the state follows the name
		parentField = 4
		startField  = 22
		codeField   = 26
		statusField = 52
	)
	begin, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	fields := bytes.Fields(data[end+1:])
	if begin < 0 || end < begin || len(fields) <= statusField-firstField {
		return ProcStat{}, fmt.Errorf("malformed process status %q", data)
	}
	parent, err := strconv.Atoi(string(fields[parentField-firstField]))
	if err != nil {
		return ProcStat{}, fmt.Errorf("malformed parent in process status %q", data)
	}
	start, err := strconv.ParseUint(string(fields[startField-firstField]), 10, 64)
	if err != nil {
		return ProcStat{}, fmt.Errorf("malformed start time in process status %q", data)
	}
	code, err := strconv.ParseUint(string(fields[codeField-firstField]), 10, 64)
	if err != nil {
		return ProcStat{}, fmt.Errorf("malformed start of the program in process status %q", data)
	}
	status, err := strconv.ParseInt(string(fields[statusField-firstField]), 10, 32)
	if err != nil {
		return ProcStat{}, fmt.Errorf("malformed exit code in process status %q", data)
	}
	return ProcStat{Name: string(data[begin+1 : end]), State: fields[0][0], Parent: parent, StartTicks: start, StartCode: code, ExitCode: int32(status)}, nil
}
