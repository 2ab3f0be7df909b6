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

	s, err := newServer(holder.Layout(*dir), *version, log)
	if err != nil {
		announce(err.Error())
		log.Error("cannot hold containers", "error", err)
		return 1
	}
	announce("ready")
	if err := s.serve(); err != nil {
		log.Error("stopped", "error", err)
		return 1
	}
	return 0
}

// announce tells the process that started us, through descriptor 3, that we
// are ready or why not. After a handover there is nobody to tell.
func announce(text string) {
	if os.Getenv(handoverEnv) != "" {
		return
	}
	var st syscall.Stat_t
	if syscall.Fstat(announceFD, &st) != nil || st.Mode&syscall.S_IFMT != syscall.S_IFIFO {
		return
	}
	f := os.NewFile(announceFD, "announce")
	_, _ = f.WriteString(text)
	_ = f.Close()
}

const announceFD = 3
