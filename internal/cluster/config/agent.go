package config

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/celox/celox/internal/cluster/join"
)

// Agent is what `celox agent` can be told.
type Agent struct {
	Node
	// Server is where the API is, e.g. https://10.0.0.1:6443; an agent that has joined knows.
	Server string
	// Token lets the agent join; TokenFile is a file with it.
	Token, TokenFile string
	// CAHash is the hash of the cluster's authority, for tokens that do not have it.
	CAHash string
	// BindAddress is what the node's own API is served on.
	BindAddress string
}

// Bind declares the keys as flags of fs, with their defaults.
func (a *Agent) Bind(fs *pflag.FlagSet) {
	a.bind(fs)
	fs.StringVar(&a.Server, "server", "", "address of the cluster's API, e.g. https://10.0.0.1:6443, or several with commas between them; needed the first time")
	fs.StringVar(&a.Token, "token", "", "token that lets this machine join, from celox token create; needed the first time")
	fs.StringVar(&a.TokenFile, "token-file", "", "file that holds the token")
	fs.StringVar(&a.CAHash, "ca-hash", "", "hash of the cluster's authority (sha256:...), for tokens without it")
	fs.StringVar(&a.NodeIP, "node-ip", "", "address of this node, or one of each family with a comma between them (default: the one that reaches the server, and for pods of the other family that of the default route)")
	fs.StringVar(&a.BindAddress, "bind-address", "0.0.0.0", "address that the node's own API is served on")
}

// Complete fills in what depends on the machine and checks every value. The error names the key.
func (a *Agent) Complete() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--%s: %s", key, fmt.Sprintf(format, args...)))
	}
	a.complete(bad)
	if a.Token != "" && a.TokenFile != "" {
		bad("token", "give it or --token-file, not both")
	}
	checkBind(bad, a.BindAddress)
	if a.Server != "" {
		if _, err := join.ServerURLs(a.Server); err != nil {
			bad("server", "%v", err)
		}
	}
	if err := join.CheckHash(a.CAHash); a.CAHash != "" && err != nil {
		bad("ca-hash", "%v", err)
	} else if a.Token != "" { // what is in a file counts when it is needed
		if _, err := join.ParseToken(a.Token, a.CAHash); err != nil {
			bad("token", "%v", err)
		}
	}
	a.checkFiles(bad)
	return errors.Join(errs...)
}
