#!/bin/sh
# Prints the Debian mirror that images are made from: $TWINRUN_DEBIAN_MIRROR, else the one this machine's apt uses itself.
set -eu
mirror=${TWINRUN_DEBIAN_MIRROR:-}
if [ "$mirror" = "" ] && command -v apt-get >/dev/null; then
  # shellcheck disable=SC2016 # apt-get fills in $(REPO_URI), not the shell.
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' | grep '/debian/*$' | head -n 1)
fi
if [ "$mirror" = "" ]; then
  echo "no Debian mirror in this machine's apt sources: set TWINRUN_DEBIAN_MIRROR to the address of one" >&2
  exit 1
fi
echo "${mirror%/}"
