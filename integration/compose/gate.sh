#!/usr/bin/env bash
# The gate's part of `make e2e`: brings along what the machine lacks, runs it and ends what it started.
# Where the machine cannot run it (nobody who may start an engine, no rights from the kernel, no registry)
# it says so and passes; anything else that goes wrong fails. One at a time: fleets share names of images.
set -euo pipefail
cd "$(dirname "$0")"
[ -n "${PELTON_GATE:-}" ] || PELTON_GATE=held exec flock --close "/tmp/pelton-gate-$(id -u).lock" "./$(basename "$0")"

not_run() {
  echo "compose tests NOT RUN: $1"
  (cd ../.. && go test ./integration/compose -run TestCompose -v -count 1) # skipped, in Go's own words
  exit
}

online() { # do the registries answer?
  apt-get update -qq -o APT::Update::Error-Mode=any && (cd / && GOFLAGS= timeout 60 go list -m github.com/docker/compose/v5@latest)
} >/dev/null 2>&1

bring() { # SCRIPT: a registry that fails once is asked again, one that does not answer is the machine's lack
  timeout 900 "$1" && return
  online || not_run "$1 failed, and no registry answers"
  echo "$1 failed; once more"
  timeout 900 "$1"
}

if ! docker info >/dev/null 2>&1; then
  [ "$(id -u)" = 0 ] || not_run "no Docker engine answers, and only root can start one"
  command -v dockerd >/dev/null || command -v apt-get >/dev/null || not_run "no Docker engine, and no Debian to install it from"
fi
bring ./install.sh
trap './engine.sh stop' EXIT
why=$(./engine.sh start 2>&1) || not_run "$why"
[ "$(id -u)" = 0 ] || export PELTON_PULL=yes # only root can make stand-ins
bring ./images.sh

# What the tests ask of the kernel, asked with one container.
probe=pelton-probe
docker rm -f $probe >/dev/null 2>&1 || true
why=$(docker run -d --rm --name $probe --memory 64m --read-only --tmpfs /tmp:size=1m --cap-drop ALL --network bridge \
  -p 127.0.0.1::4222 --entrypoint busybox nats:2.15.2-alpine sleep 60 2>&1 && docker pause $probe && docker unpause $probe) \
  || not_run "the engine cannot run, publish and pause a container: $(tail -1 <<<"$why")"
docker rm -f $probe >/dev/null

make -C ../.. e2e-images
why=$(docker run --rm "ghcr.io/pelton-run/pelton:${PELTON_VERSION:-dev}" health https://pypi.org/simple/pip/ 2>&1) \
  || not_run "containers reach no registry to fetch the model from: $(tail -1 <<<"$why")"
[ "$(date +%s)" -lt "${PELTON_GATE_BEGIN:-9999999999}" ] || not_run "the gate would take too long: the machine is slow or busy"
make -C ../.. e2e
