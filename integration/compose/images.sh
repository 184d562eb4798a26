#!/usr/bin/env bash
# Makes local stand-ins for the base images that Dockerfile and compose.yaml name, for machines that
# cannot pull: the same software from Debian's and Go's package registries, under the same names. What
# is there already, pulled or made, stays.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d /tmp/pelton-images-XXXXXX)
trap 'rm -rf "$work"' EXIT
ca=/etc/ssl/certs/ca-certificates.crt # the machine's: registries may be reached through a proxy of its own

have() { docker image inspect "$1" >/dev/null 2>&1; }
missing() { ! have "$1" && { echo "making $1"; [ -z "${PELTON_PULL:-}" ] || ! docker pull -q "$1"; }; }
import() { # NAME CHANGE...: the folder on stdin becomes an image
  local name=$1 changes=(); shift
  for c in "$@"; do changes+=(-c "$c"); done
  docker import "${changes[@]}" - "$name" >/dev/null
}

# The C library and what C++ needs, without a shell.
if missing gcr.io/distroless/cc-debian12:nonroot; then
  mkdir -p "$work/debs" "$work/cc/etc/ssl/certs" "$work/cc/tmp"
  (cd "$work/debs" && apt-get download -qq libc6 libgcc-s1 libstdc++6 libgomp1 libssl3 zlib1g base-files netbase tzdata gcc-12-base)
  for d in "$work"/debs/*.deb; do dpkg -x "$d" "$work/cc"; done
  cp $ca "$work/cc$ca"
  echo 'nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin' > "$work/cc/etc/passwd"
  tar -C "$work/cc" -c . | import gcr.io/distroless/cc-debian12:nonroot "USER 65532" "ENV SSL_CERT_FILE=$ca"
fi

debian() { # the smallest Debian with a C compiler and haproxy, made once
  have pelton-standin:bookworm && return
  command -v debootstrap >/dev/null || (apt-get update -q && apt-get install -qy debootstrap) >/dev/null
  debootstrap --variant=minbase --include=ca-certificates,gcc,libc6-dev,haproxy bookworm "$work/debian" http://deb.debian.org/debian >"$work/debootstrap.log" 2>&1 \
    || { tail -20 "$work/debootstrap.log"; return 1; }
  cp $ca "$work/debian$ca"
  tar -C "$work/debian" -c . | import pelton-standin:bookworm
}

if missing haproxy:2.6-bookworm; then
  debian
  DOCKER_BUILDKIT=0 docker build -q -t haproxy:2.6-bookworm - >/dev/null <<'END'
FROM pelton-standin:bookworm
RUN mkdir -p /usr/local/etc/haproxy
USER haproxy
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
END
fi

# Go itself, and the modules of go.sum as a module proxy in the image: builds need no network. One that
# was made for other modules is made anew.
golang=golang:1.26-bookworm
made=$( (go version; cat go.sum) | sha256sum | cut -c1-16)
was=$(docker image inspect -f '{{index .Config.Labels "pelton.modules"}}' $golang 2>/dev/null || true)
if [ -n "$was" ] && [ "$was" != "$made" ]; then docker rmi -f $golang >/dev/null; fi
if missing $golang; then
  debian
  mkdir -p "$work/go"
  go mod download
  cache=$(go env GOMODCACHE)/cache/download
  GOMODCACHE=$work/modules GOPROXY=file://$cache GOFLAGS=-modcacherw go mod download
  mv "$work/modules/cache/download" "$work/go/proxy"
  cp -a "$(go env GOROOT)" "$work/go/go"
  cat > "$work/go/Dockerfile" <<'END'
FROM pelton-standin:bookworm
COPY go /usr/local/go
COPY proxy /usr/local/share/goproxy
ENV PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin GOPATH=/go GOTOOLCHAIN=local
ENV GOPROXY=file:///usr/local/share/goproxy
WORKDIR /go
END
  DOCKER_BUILDKIT=0 docker build -q --label pelton.modules="$made" -t $golang "$work/go" >/dev/null
fi

# nats-server of the version that go.mod has, beside a busybox.
if missing nats:2.15.2-alpine; then
  mkdir -p "$work/nats/usr/local/bin" "$work/nats/bin" "$work/nats/etc/nats" "$work/nats/tmp"
  CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$work/nats/usr/local/bin/nats-server" github.com/nats-io/nats-server/v2
  mkdir -p "$work/busybox" && (cd "$work/busybox" && apt-get download -qq busybox-static && dpkg -x busybox-static*.deb .)
  cp "$work"/busybox/bin/busybox "$work/nats/bin/"
  for tool in sh wget ls cat; do ln -s busybox "$work/nats/bin/$tool"; done
  tar -C "$work/nats" -c . | import nats:2.15.2-alpine 'ENV PATH=/usr/local/bin:/bin' 'ENTRYPOINT ["nats-server"]' 'CMD ["--config", "/etc/nats/nats-server.conf"]'
fi
