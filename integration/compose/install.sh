#!/usr/bin/env bash
# Installs what `make e2e` needs where it is missing: a Docker engine from Debian, compose v2 from its Go
# module (kept in the user's folder of Docker plugins).
set -euo pipefail

command -v dockerd >/dev/null || {
  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy docker.io debootstrap
} >/tmp/pelton-install.log 2>&1 || { tail -20 /tmp/pelton-install.log; exit 1; }

docker compose version >/dev/null 2>&1 || {
  plugins=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
  mkdir -p "$plugins"
  (cd / && GOFLAGS= GOBIN=$plugins go install github.com/docker/compose/v5/cmd@v5.0.2)
  mv "$plugins/cmd" "$plugins/docker-compose"
}
docker compose version
