#!/usr/bin/env bash
# make run: a one-node cluster with a sample application, and its pages.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${CELOX_DATA_DIR:-/var/lib/celox}
port=${CELOX_HTTPS_PORT:-6443}
data=${data%/}
log=bin/run-$(basename "$data").log # not in the directory, which holds the cluster's things only and goes with it
pid_file=bin/run-$(basename "$data").pid
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ "$(id -u)" = 0 ] || { echo "make run starts containers and needs root: sudo make run" >&2; exit 1; }

say "Packing the sample application into an image"
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/web ./examples/web
go run ./test/image/mkimage -o bin/web.tar -tag celox.dev/web:1 bin/web

say "Starting a cluster in $data"
mkdir -p "$(dirname "$data")"
if bin/celox kubectl --data-dir "$data" get --raw /readyz >/dev/null 2>&1; then
  echo "it runs already"
else
  mkdir -p bin
  # The sample needs little of a disk that may be nearly full; the defaults want 15 % of it to be free.
  setsid bin/celox server --data-dir "$data" --https-port "$port" --image-gc-high-threshold 100 \
    --eviction-hard 'memory.available<100Mi,nodefs.available<1Gi,imagefs.available<1Gi' >"$log" 2>&1 </dev/null &
  pid=$!
  echo "$pid" >"$pid_file"
  shown=0
  show() { # what the server has said since the last time
    local total
    total=$(wc -l <"$log")
    [ "$total" -le "$shown" ] || sed -n "$((shown + 1)),${total}p" "$log"
    shown=$total
  }
  for _ in $(seq 600); do
    show
    if grep -q 'is Ready' "$log"; then show; break; fi
    kill -0 "$pid" 2>/dev/null || { show; echo "the server ended; see $log" >&2; exit 1; }
    sleep 0.1
  done
  grep -q 'is Ready' "$log" || { echo "the node did not become Ready within 60 s; see $log" >&2; exit 1; }
fi
k() { bin/celox kubectl --data-dir "$data" "$@"; }

say "Importing the image"
bin/celox image import --data-dir "$data" bin/web.tar

say "Applying examples/web/deployment.yaml"
k apply -f examples/web/deployment.yaml
k rollout status deployment/web --timeout=60s
k get deployment,pods -o wide

say "The page of each pod"
for ip in $(k get pods -l app=web -o jsonpath='{.items[*].status.podIP}'); do
  echo "http://$ip:8080/"
  curl -fsS --max-time 5 --noproxy '*' "http://$ip:8080/"
done

cat <<TXT

Your cluster runs. Next:
  bin/celox kubectl --data-dir $data get pods -w
  bin/celox kubectl --data-dir $data scale deployment/web --replicas=5
  bin/celox kubectl --data-dir $data logs -f deployment/web
  export KUBECONFIG=$data/admin.kubeconfig      # for any other kubectl
Stop it (containers go on):    kill \$(cat $pid_file)
Remove everything:             bin/celox reset --data-dir $data
TXT
