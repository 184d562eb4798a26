#!/usr/bin/env bash
# The gate's part of `make e2e`: brings along what the machine lacks, runs it and ends what it started.
# Where no Docker engine can run (not root, or no rights from the kernel) it says so and passes; anything
# else that goes wrong fails.
set -euo pipefail
cd "$(dirname "$0")"

not_run() { echo "compose tests NOT RUN: $1"; exit 0; }

if ! docker info >/dev/null 2>&1; then
  [ "$(id -u)" = 0 ] || not_run "no Docker engine answers, and only root can start one"
  command -v dockerd >/dev/null || command -v apt-get >/dev/null || not_run "no Docker engine, and no Debian to install it from"
fi
./install.sh
trap './engine.sh stop' EXIT
why=$(./engine.sh start 2>&1) || not_run "$why"
./images.sh
# 125: the engine itself could not run it, whatever is in it.
code=0; why=$(docker run --rm --memory 64m --network bridge nats:2.15.2-alpine --version 2>&1) || code=$?
[ $code != 125 ] || not_run "the engine starts no container: $(head -1 <<<"$why")"
make -C ../.. e2e
