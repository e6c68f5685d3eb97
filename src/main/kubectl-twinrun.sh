#!/bin/sh
# Starts src/main/kubectl-twinrun.ts. kubectl finds it as kubectl-twinrun on the PATH: a link to this file, made by npm or by hand.
#
# Node 24 is the one that npm installed for Twinrun, wherever npm put it; else that of the PATH, if it is new enough.
set -eu

# The file itself, through any number of links (not every readlink has -f).
self=$0
while [ -L "$self" ]; do
  target=$(readlink "$self")
  case $target in
    /*) self=$target ;;
    *) self=$(dirname "$self")/$target ;;
  esac
done
directory=$(cd "$(dirname "$self")" && pwd -P)
root=$(cd "$directory/../.." && pwd -P)

is_new_enough() {
  [ -x "$1" ] && "$1" -e '
    const [major, minor] = process.versions.node.split(".").map(Number);
    process.exit(major === 24 ? Number(minor < 15) : Number(major < 24));' 2>/dev/null
}

# Beside the package when npm has installed it, in it in a checkout. Some npm unpack the binary without linking it.
find_node() {
  for candidate in "$root"/node_modules/.bin/node "$root"/node_modules/node-linux-*/bin/node \
    "$root"/../.bin/node "$root"/../node-linux-*/bin/node; do
    if [ -x "$candidate" ]; then
      echo "$candidate"
      return
    fi
  done
  candidate=$(command -v node || true)
  if [ "$candidate" != "" ] && is_new_enough "$candidate"; then
    echo "$candidate"
  fi
}

node=$(find_node)
if [ "$node" = "" ]; then
  echo "kubectl-twinrun: there is no Node 24.15 or later: run npm ci in $root, or put a newer node on the PATH" >&2
  exit 1
fi
# Node runs TypeScript by itself, but not below a folder node_modules, which is where npm installs.
case $directory in
  */node_modules/*)
    exec "$node" --disable-warning=ExperimentalWarning --import "$directory/strip-types.mjs" \
      "$directory/kubectl-twinrun.ts" "$@"
    ;;
  *) exec "$node" "$directory/kubectl-twinrun.ts" "$@" ;;
esac
