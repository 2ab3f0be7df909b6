package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestNodeIPs(t *testing.T) {
	for text, want := range map[string]string{
		"": "[]", "10.0.0.1": "[10.0.0.1]", "fd01::1": "[fd01::1]", "10.0.0.1,fd01::1": "[10.0.0.1 fd01::1]", "fd01::1, 10.0.0.1": "[fd01::1 10.0.0.1]",
		"::ffff:10.0.0.1": "[10.0.0.1]",
		"x":               "", "10.0.0.1,10.0.0.2": "", "fd01::1,fd01::2": "", "10.0.0.1,fd01::1,fd01::2": "", "10.0.0.1,": "", "0.0.0.0": "", "fe80::1%eth0": "", "224.0.0.1": "",
	} {
		n := Node{NodeIP: text}
		got, err := n.NodeIPs()
		if err == nil && fmt.Sprint(got) != want || err != nil && want != "" {
			t.Errorf("%q: got %v, %v, want %q", text, got, err, want)
		}
	}
}

func TestNetworkFlags(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string // in the complaint; "" is none
	}{
		{[]string{"--pod-encryption=wireguard"}, ""},
		{[]string{"--pod-encryption=rot13"}, "--pod-encryption"},
		{[]string{"--wireguard-port=0"}, "--wireguard-port"},
		{[]string{"--cluster-cidr=fd42::/56", "--service-cidr=fd43::/112"}, ""},
		{[]string{"--advertise-address=10.0.0.1", "--service-cidr=fd43::/112,10.43.0.0/16"}, "--advertise-address"},
		{[]string{"--advertise-address=fd01::1", "--service-cidr=fd43::/112,10.43.0.0/16"}, ""},
		{[]string{"--node-ip=10.0.0.1,10.0.0.2"}, "--node-ip"},
		{[]string{"--cluster-cidr=10.43.0.0/16"}, "--cluster-cidr: 10.43.0.0/16 overlaps 10.43.0.0/16 of --service-cidr"},
		{[]string{"--service-cidr=10.32.0.0/11"}, "--cluster-cidr: 10.42.0.0/16 overlaps 10.32.0.0/11 of --service-cidr"},
		{[]string{"--cluster-cidr=10.42.0.0/16,fd43::/56", "--service-cidr=10.43.0.0/16,fd43::/112"}, "fd43::/56 overlaps"},
	} {
		s, fs := Server{}, pflag.NewFlagSet("", pflag.ContinueOnError)
		s.Bind(fs)
		if err := fs.Parse(append(tt.args, "--node-name=n")); err != nil {
			t.Fatal(err)
		}
		err := s.Complete()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%v: got %v, want %q", tt.args, err, tt.want)
		}
		if want := uint16(51820); err == nil && s.PodEncryption == encryptionWireGuard && s.WireGuard() != want {
			t.Errorf("%v: port %d", tt.args, s.WireGuard())
		}
	}
}
