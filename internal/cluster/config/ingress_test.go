package config

import (
	"strings"
	"testing"
)

func TestIngress(t *testing.T) {
	for _, args := range [][]string{
		{"ingress-http-port", "--ingress-http-port=0"}, {"ingress-https-port", "--ingress-https-port=80"}, {"ingress-trusted-proxies", "--ingress-trusted-proxies=lan"},
		{"ingress-proxy-protocol", "--ingress-proxy-protocol"}, {"ingress-access-log", "--ingress-access-log=here.log"},
	} {
		s, _, err := flags(args[1:]...)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Complete(); err == nil || !strings.Contains(err.Error(), "--"+args[0]+": ") {
			t.Errorf("%v: got %v", args[1:], err)
		}
	}
	s, _, err := flags("--node-name=n", "--ingress-trusted-proxies=10.1.2.3/8,192.0.2.1", "--ingress-proxy-protocol", "--ingress-access-log=-")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Complete(); err != nil {
		t.Error(err)
	}
	got, err := s.Ingress.Trusted()
	if err != nil || len(got) != 2 || got[0].String() != "10.0.0.0/8" || got[1].String() != "192.0.2.1/32" {
		t.Errorf("got %v, %v", got, err)
	}
}
