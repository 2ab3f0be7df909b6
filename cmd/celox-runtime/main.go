package main

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	_ "github.com/opencontainers/cgroups/devices" // lets cgroups set device rules
	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // joins namespaces before Go starts, in the mode "init"
	"github.com/sirupsen/logrus"

	"github.com/celox/celox/internal/runtime/holder"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init() // does not return
	}
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	if len(args) == 0 || args[0] != "hold" {
		fmt.Fprintln(os.Stderr, "celox-runtime holds the containers of a Celox node; celox starts it by itself.\nusage: celox-runtime hold --dir DIR --version VERSION")
		return 2
	}
	flags := flag.NewFlagSet("hold", flag.ContinueOnError)
	dir := flags.String("dir", "", "the runtime directory")
	version := flags.String("version", "", "the name of this program's version")
	if err := flags.Parse(args[1:]); err != nil || *dir == "" {
		return 2
	}
	// A client that goes away must not end us, and neither must a terminal. They are caught rather than ignored, because what we start would
	// inherit that: control-C in a container would do nothing.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGINT)

	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	logrus.SetOutput(os.Stderr)
	logrus.SetLevel(logrus.WarnLevel)

	starter := announcing(announceFD)
	s, err := newServer(holder.Layout(*dir), *version, log)
	if err != nil {
		announce(starter, err.Error())
		log.Error("cannot hold containers", "error", err)
		return 1
	}
	announce(starter, "ready")
	if err := s.serve(); err != nil {
		log.Error("stopped", "error", err)
		return 1
	}
	return 0
}

// announcing is the pipe to the process that started us, which waits to hear that we are ready or why not; nil if there is none, as after a handover: then the descriptor may
// be the pipe of a container. It has to be asked for before the handover is taken and before anything is opened.
func announcing(fd int) *os.File {
	if os.Getenv(handoverEnv) != "" {
		return nil
	}
	var st syscall.Stat_t
	if syscall.Fstat(fd, &st) != nil || st.Mode&syscall.S_IFMT != syscall.S_IFIFO {
		return nil
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "announce")
}

// announce says text to who waits for it, if anybody does, and nothing more.
func announce(to *os.File, text string) {
	if to != nil {
		_, _ = to.WriteString(text)
		_ = to.Close()
	}
}

// announceFD is the first of ExtraFiles.
const announceFD = 3
