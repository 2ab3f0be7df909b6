#!/usr/bin/env bash
# Builds the kubectl of every minor version that Celox is tested with into a directory, from the Go module proxy. Each has a module of its
# own there, so that nothing of it comes into ours. What is built already stays.
#   scripts/kubectls.sh DIRECTORY    prints the programs, one a line
set -euo pipefail
dir=${1:?directory}
versions=(v0.30.14 v0.31.3 v0.32.3 v0.33.13 v0.34.13 v0.35.10 v0.36.6 v0.37.2) # of k8s.io/kubectl
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
for i in "${!versions[@]}"; do
  v=${versions[$i]}
  minor=${v#v0.}
  name=$dir/kubectl.1.$minor
  minor=${minor%%.*}
  if [ ! -x "$name" ]; then
    echo "[$((i + 1))/${#versions[@]}] building kubectl v1.${v#v0.}" >&2
    src=$dir/src/$v
    mkdir -p "$src"
    cat >"$src/main.go" <<'GO'
// A kubectl, as its module's users make one.
package main

import (
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
}
GO
    printf 'module kubectl\n\ngo 1.22\n\nrequire (\n\tk8s.io/component-base %s\n\tk8s.io/kubectl %s\n)\n' "$v" "$v" >"$src/go.mod"
    version=k8s.io/component-base/version
    (cd "$src" && GOFLAGS='' GOWORK=off CGO_ENABLED=0 nice go build -mod=mod -trimpath \
      -ldflags "-s -w -X $version.gitVersion=v1.${v#v0.} -X $version.gitMajor=1 -X $version.gitMinor=$minor" -o "$name.new" . >&2)
    mv "$name.new" "$name"
  fi
  echo "$name"
done
