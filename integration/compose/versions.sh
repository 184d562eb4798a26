#!/usr/bin/env bash
# Makes two images beside the one under test, for a fleet whose parts differ in age: `older` from a commit
# of the past, which spoke fewer keys and subjects, and `newer` from this tree with keys in every message
# that today's readers do not know.
set -euo pipefail
cd "$(dirname "$0")/../.."
image=ghcr.io/pelton-run/pelton
base=$image:${PELTON_VERSION:-dev}
past=067ce0f849558e15f1f26b8b2ebc7da574e5435c
work=$(mktemp -d /tmp/pelton-versions-XXXXXX)
trap 'rm -rf "$work"' EXIT

make_image() { # NAME SOURCE COMMIT
  mkdir -p "$work/$1.image"
  (cd "$2" && CGO_ENABLED=0 go build -ldflags "-s -w -X github.com/pelton-run/pelton/ops/cli.release=$1" -o "$work/$1.image/pelton" ./ops/cmd/pelton)
  printf 'FROM %s\nCOPY pelton /usr/local/bin/pelton\nLABEL org.opencontainers.image.version=%s org.opencontainers.image.revision=%s\n' "$base" "$1" "$3" >"$work/$1.image/Dockerfile"
  docker build -q -t "$image:$1" "$work/$1.image" >/dev/null
}

mkdir "$work/newer"
git ls-files -z -- go.mod go.sum contracts dispatcher worker runtime ops | tar -c --null -T - | tar -x -C "$work/newer"
for type in Job Admitted Answer Chunk Claim Heartbeat; do
  grep -qx "type $type struct {" "$work"/newer/contracts/*.go || { echo "contracts has no type $type"; exit 1; }
  sed -i "s/^type $type struct {\$/&\n\tTomorrow string \`msgpack:\"tomorrow\" json:\"tomorrow\"\`/" "$work"/newer/contracts/*.go
done
make_image newer "$work/newer" "$(git rev-parse HEAD)"

if [ "$(docker image inspect -f '{{index .Config.Labels "org.opencontainers.image.revision"}}' $image:older 2>/dev/null)" = $past ]; then
  exit 0
fi
if ! git cat-file -e "$past^{commit}" 2>/dev/null; then
  echo "image of an older version NOT MADE: commit $past is not in this clone"
  exit 0
fi
mkdir "$work/older"
git archive "$past" | tar -x -C "$work/older"
make_image older "$work/older" $past
