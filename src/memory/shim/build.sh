#!/bin/sh
# Builds the preload shim into build/twinrun-shim.so (what `make` does as well).
set -eu
root=$(cd "$(dirname "$0")/../../.." && pwd)
mkdir -p "$root/build"
gcc -shared -fPIC -O2 -Wall -Wextra -Werror -o "$root/build/twinrun-shim.so" "$root/src/memory/shim/shim.c"
