#!/usr/bin/env bash
# Starts a Docker engine where none answers, for machines without a service manager: engine.sh start, and
# at the end engine.sh stop, which ends only what start has started.
set -uo pipefail
state=${PELTON_ENGINE_STATE:-/tmp/pelton-engine}

answers() { timeout 10 docker info >/dev/null 2>&1; }

launch() { # FLAG...: tries a daemon with these flags for 30 s
  # What a daemon that was killed leaves behind would stop the next one.
  for pid in /var/run/docker.pid /var/run/docker/containerd/containerd.pid; do
    [ -f $pid ] && ! kill -0 "$(cat $pid)" 2>/dev/null && rm -f $pid
  done
  setsid dockerd "$@" >"$state/log" 2>&1 </dev/null &
  echo $! >"$state/pid"
  for _ in $(seq 60); do
    answers && return 0
    kill -0 "$(cat "$state/pid")" 2>/dev/null || return 1
    sleep 0.5
  done
  end
  return 1
}

end() {
  local pid; pid=$(cat "$state/pid" 2>/dev/null) || return 0
  answers && docker image prune -f >/dev/null # stages of builds
  kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 60); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.5; done
  kill -9 "$pid" 2>/dev/null
}

case ${1:-} in
start)
  answers && exit 0
  command -v dockerd >/dev/null || { echo "no dockerd: install a Docker engine"; exit 1; }
  mkdir -p "$state"
  launch || launch --storage-driver=fuse-overlayfs || launch --storage-driver=vfs || {
    echo "no Docker engine could be started: $(tail -1 "$state/log")"; exit 1; }
  ;;
stop) end; rm -rf "$state" ;;
*) echo "usage: $0 start|stop"; exit 2 ;;
esac
