package holder

import (
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Protocol is the version of the messages. A holder that speaks another one is
// asked to upgrade before anything else.
const Protocol = 1

// The operations of a Request.
const (
	OpHello     = "hello"     // → Protocol, Version, Pid
	OpStart     = "start"     // Task → State
	OpKill      = "kill"      // ID, Signal, All
	OpExec      = "exec"      // Exec + stdin, stdout, stderr → Pid (+ console), then ExitCode
	OpAttach    = "attach"    // ID, Streams + descriptors → ok, then ok when the task ended
	OpResize    = "resize"    // ID or, on the connection of an exec, nothing; Width, Height
	OpUpdate    = "update"    // ID, Resources
	OpReopenLog = "reopenlog" // ID
	OpDelete    = "delete"    // ID; the task must have ended
	OpEvents    = "events"    // → States, then one State per message
	OpUpgrade   = "upgrade"   // Binary, Version; the connection breaks when it worked
	OpShutdown  = "shutdown"  // kills every task, then exits
)

// Code classifies an Error for those who act on it.
type Code string

// The codes of an Error.
const (
	CodeInternal   Code = "Internal"
	CodeNotFound   Code = "NotFound"
	CodeExists     Code = "AlreadyExists"
	CodeNotRunning Code = "NotRunning"
	CodeInvalid    Code = "InvalidArgument"
)

// Error is a failure that the holder reports.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// HasCode tells whether the holder answered with an Error of this code.
func HasCode(err error, code Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// Task is a container, or the first process of a shared process namespace.
type Task struct {
	// ID is unique among all tasks: letters, digits, '_', '-' and '.'.
	ID string `json:"id"`
	// Spec is the OCI specification; Root.Path is mounted already. Its
	// CgroupsPath is absolute.
	Spec *specs.Spec `json:"spec,omitempty"`
	// DefaultSeccomp asks for the built-in filter (what Kubernetes calls
	// RuntimeDefault); Spec.Linux.Seccomp must be nil then.
	DefaultSeccomp bool `json:"defaultSeccomp,omitempty"`
	// Stdin keeps standard input open for attach; otherwise it is /dev/null.
	Stdin bool `json:"stdin,omitempty"`
	// StdinOnce closes standard input when the first attached input ends.
	StdinOnce bool `json:"stdinOnce,omitempty"`
	// LogPath is where the output goes, in CRI format. Empty: nowhere.
	LogPath string `json:"logPath,omitempty"`
	// Pause makes the task a process that only reaps, as the init of a new
	// process namespace, in the cgroup PauseCgroup; Spec is nil then.
	Pause       bool   `json:"pause,omitempty"`
	PauseCgroup string `json:"pauseCgroup,omitempty"`
}

// Phase says where a task is in its life.
type Phase string

// The phases, in their order.
const (
	PhaseStarting Phase = "starting"
	PhaseRunning  Phase = "running"
	PhaseExited   Phase = "exited"
)

// The reasons of an exited State that are not plain success or failure.
const (
	// ReasonOOMKilled: the kernel killed a process of the task for memory.
	ReasonOOMKilled = "OOMKilled"
	// ReasonUnknown: the task ended while nobody watched; the code is made up.
	ReasonUnknown = "Unknown"
)

// State is what the holder knows of a task. It is also its record in the
// journal.
type State struct {
	ID    string `json:"id"`
	Phase Phase  `json:"phase"`
	Pid   int    `json:"pid,omitempty"`
	// StartTicks is field 22 of /proc/PID/stat and BootID the kernel's: both
	// must match before Pid is believed to be this task.
	StartTicks uint64    `json:"startTicks,omitempty"`
	BootID     string    `json:"bootID,omitempty"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	// ExitCode is 128+signal for a task that was killed.
	ExitCode int    `json:"exitCode,omitempty"`
	Reason   string `json:"reason,omitempty"`
	// Cgroup is the absolute path inside each hierarchy.
	Cgroup    string `json:"cgroup,omitempty"`
	LogPath   string `json:"logPath,omitempty"`
	Terminal  bool   `json:"terminal,omitempty"`
	Stdin     bool   `json:"stdin,omitempty"`
	StdinOnce bool   `json:"stdinOnce,omitempty"`
	Pause     bool   `json:"pause,omitempty"`
	SharedPID bool   `json:"sharedPID,omitempty"`
	// Held are the signals that wait until the program can take them: bit n-1 is
	// signal n.
	Held uint64 `json:"held,omitempty"`
	// KeeperPid and KeeperTicks name the process that keeps the terminal open
	// should the holder die.
	KeeperPid   int    `json:"keeperPid,omitempty"`
	KeeperTicks uint64 `json:"keeperTicks,omitempty"`
}

// ExecSpec is a further process in a running task. It takes user,
// capabilities, limits and seccomp filter from the task.
type ExecSpec struct {
	ID       string   `json:"id"`
	Args     []string `json:"args"`
	Env      []string `json:"env,omitempty"`
	Cwd      string   `json:"cwd,omitempty"`
	UID      uint32   `json:"uid,omitempty"`
	GID      uint32   `json:"gid,omitempty"`
	Groups   []uint32 `json:"groups,omitempty"`
	Terminal bool     `json:"terminal,omitempty"`
	Width    uint16   `json:"width,omitempty"`
	Height   uint16   `json:"height,omitempty"`
}

// Streams says which of the three descriptors accompany a message, in order.
type Streams struct {
	In  bool `json:"in,omitempty"`
	Out bool `json:"out,omitempty"`
	Err bool `json:"err,omitempty"`
}

func (s Streams) count() int {
	n := 0
	for _, b := range []bool{s.In, s.Out, s.Err} {
		if b {
			n++
		}
	}
	return n
}

// Request is what celox asks.
type Request struct {
	Op        string                `json:"op"`
	ID        string                `json:"id,omitempty"`
	Task      *Task                 `json:"task,omitempty"`
	Exec      *ExecSpec             `json:"exec,omitempty"`
	Streams   Streams               `json:"streams,omitzero"`
	Signal    int                   `json:"signal,omitempty"`
	All       bool                  `json:"all,omitempty"`
	Width     uint16                `json:"width,omitempty"`
	Height    uint16                `json:"height,omitempty"`
	Resources *specs.LinuxResources `json:"resources,omitempty"`
	Binary    string                `json:"binary,omitempty"`
	Version   string                `json:"version,omitempty"`
}

// Response is what the holder answers.
type Response struct {
	Error    *Error  `json:"error,omitempty"`
	Protocol int     `json:"protocol,omitempty"`
	Version  string  `json:"version,omitempty"`
	Pid      int     `json:"pid,omitempty"`
	State    *State  `json:"state,omitempty"`
	States   []State `json:"states,omitempty"`
	ExitCode int     `json:"exitCode,omitempty"`
	// Snapshot marks the first message of an event stream.
	Snapshot bool `json:"snapshot,omitempty"`
}
