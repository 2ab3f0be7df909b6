# Two commands do everything: `make run` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
export GO ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
RUNTIME_BIN := bin/celox-runtime
BUNDLE := internal/runtime/bundle/bin
# The built-in kubectl says which version it is from variables that only the linker can set.
KUBERNETES := $(shell sed -n 's/^\tKubernetes *= "\(.*\)"$$/\1/p' internal/cluster/version/version.go)
KUBECTL_LDFLAGS := $(foreach v,gitVersion=$(KUBERNETES)+celox gitMajor=$(word 1,$(subst ., ,$(KUBERNETES:v%=%))) gitMinor=$(word 2,$(subst ., ,$(KUBERNETES))) gitCommit=$(VERSION) gitTreeState=clean,-X k8s.io/component-base/version.$(v))
# Functions begin at multiples of 16 bytes instead of 32, which Go's tables allow: the file is 1.2 MB smaller.
LDFLAGS := -s -w -funcalign=16 -X github.com/celox/celox/internal/cluster/version.Build=$(VERSION) $(KUBECTL_LDFLAGS)
# gRPC's pages for people who debug it bring a second template engine. They are on Go's default mux, which nobody serves.
TAGS := grpcnotrace
# What runs once, rarely, or only in kubectl is in no hurry: without inlining the file is some megabytes smaller. That is kubectl and what only it uses,
# versions of the API that clients hardly ask for, typed clients (the work is what they call), reading of OpenAPI documents and of CEL's text.
COLD := $(foreach p, \
	k8s.io/kubectl/... k8s.io/cli-runtime/... sigs.k8s.io/kustomize/... github.com/spf13/... github.com/russross/... text/template/... \
	k8s.io/api/.../v1alpha... k8s.io/api/.../v1beta... k8s.io/metrics/... k8s.io/kube-aggregator/... \
	k8s.io/client-go/kubernetes/... k8s.io/client-go/applyconfigurations/... \
	github.com/google/gnostic-models/... k8s.io/kube-openapi/pkg/internal/... k8s.io/kube-openapi/pkg/util/... github.com/go-openapi/... \
	github.com/google/cel-go/ext github.com/google/cel-go/common/stdlib github.com/google/cel-go/parser/... github.com/google/cel-go/checker \
	k8s.io/apiserver/pkg/cel/library \
	github.com/google/go-containerregistry/... github.com/emicklei/... encoding/xml,-gcflags '$(p)=-l')

.PHONY: help deps build runtime run test test-vm lint unit ecosystem e2e skew bench generate clean

help: ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

deps: ## Debian packages that building and testing need (as root; does nothing when they are there)
	@./scripts/deps.sh

runtime: deps ## the small binary that holds the containers, embedded in celox
	@echo "[1/2] building celox-runtime (static, with seccomp)"
	@CGO_ENABLED=1 $(GO) build -trimpath -tags 'netgo osusergo seccomp' -ldflags '-s -w -extldflags -static' -o $(RUNTIME_BIN) ./cmd/celox-runtime
	@$(GO) run ./internal/runtime/bundle/pack $(RUNTIME_BIN) $(BUNDLE)

build: runtime ## bin/celox, one file that holds everything
	@echo "[2/2] building celox (the first build compiles the Kubernetes libraries and takes minutes)"
	@CGO_ENABLED=0 $(GO) build -trimpath -tags '$(TAGS)' $(COLD) -ldflags '$(LDFLAGS)' -o bin/celox ./cmd/celox
	@ls -l bin/celox | awk '{printf "bin/celox: %.1f MB\n", $$5/1e6}'

run: build ## a one-node cluster with a sample app, its pages shown
	@./scripts/run.sh

lint: runtime ## gofmt, vet, staticcheck
	@out=$$(gofmt -l cmd internal test); if [ -n "$$out" ]; then echo "not gofmt clean:"; echo "$$out"; exit 1; fi
	@$(GO) vet ./...
	@$(GO) run $(STATICCHECK) ./...

unit: runtime ## every package's tests, with the race detector
	@CGO_ENABLED=1 ./scripts/gotest.sh -race -timeout 20m ./cmd/... ./internal/... ./test/bench/... ./test/image/...
	@CGO_ENABLED=0 ./scripts/gotest.sh -timeout 10m -run '^(TestQuietDay|TestCrashAfterEveryWrite)$$' ./internal/controller/world

ecosystem: ## what others build on Kubernetes, to test against: an operator, an API server, probed servers, an unmodified Helm, etcd's tool for snapshots
	@cd test/ecosystem && $(GO) vet ./... && $(GO) build -trimpath -o ../../bin/operator ./operator && $(GO) build -trimpath -o ../../bin/helm helm.sh/helm/v4/cmd/helm && $(GO) build -trimpath -o ../../bin/etcdutl go.etcd.io/etcd/etcdutl/v3 && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o ../../bin/ ./aquarium ./gauge ./mirror ./pulse

e2e: build ecosystem ## the built binary from outside, on real containers
	@CELOX_BIN=$(CURDIR)/bin/celox ./scripts/gotest.sh -count=1 -timeout 25m ./test/e2e/...

skew: build ## the tests that any kubectl has to pass, with that of every minor version from 1.30 on (built first: minutes)
	@list=$$(./scripts/kubectls.sh bin/kubectls | paste -sd:) && CELOX_BIN=$(CURDIR)/bin/celox CELOX_E2E_KUBECTL=$$list $(GO) test -count=1 -timeout 25m -v -run '^TestOtherKubectls$$' ./test/e2e

test: build lint unit e2e test-vm ## everything

test-vm: build ## the built binary on cgroup v2, in a virtual machine
	@./scripts/deps.sh vm
	@./scripts/kernel.sh bin/kernel
	@CELOX_BIN=$(CURDIR)/bin/celox CELOX_VM_KERNEL=$(CURDIR)/bin/kernel ./scripts/gotest.sh -count=1 -timeout 15m -v ./test/vm/...

bench: build ## the figures of docs/benchmarks.md
	@CELOX_BIN=$(CURDIR)/bin/celox $(GO) run ./test/bench
	@$(GO) test -run '^$$' -bench '^Benchmark(Attach|Detach)$$' ./internal/network
	@$(GO) test -run '^$$' -bench '^BenchmarkPolicy(Change|Comes)$$' ./internal/network/policy

generate: ## files that are made from others (the OpenAPI documents, docs/api.md)
	@$(GO) generate ./...

clean: ## what the build made
	@rm -rf bin $(BUNDLE)/celox-runtime*
