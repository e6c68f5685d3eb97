#!/bin/sh
# Completes `kubectl twinrun ...`: kubectl starts it with the words after `twinrun`, the last one as far as it is typed.
set -eu
self=$0
while [ -L "$self" ]; do
  target=$(readlink "$self")
  case $target in
    /*) self=$target ;;
    *) self=$(dirname "$self")/$target ;;
  esac
done
exec sh "$(dirname "$self")/kubectl-twinrun.sh" __complete "$@"
