#!/usr/bin/env bash
# Builds the programs of a real Kubernetes, and Helm, from their Go modules, each once, and says where they are.
#
# usage: build.sh [PROGRAM...]     kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl, helm, and
#                                  debian: what a node needs of Debian's packages, unpacked and not installed. All when none
#                                  is named. The last line on standard output is the directory they are in.
#
# go.mod beside this script names the version, go.sum pins every module that goes into it; Helm has its own two in helm/. It
# is the newest Helm that the Go which builds this Kubernetes compiles. The programs are put under
# $TWINRUN_CACHE/kubernetes/VERSION, else ~/.cache/twinrun/kubernetes/VERSION. On two cores all of them take six minutes, with
# 1.5 GB of memory at the peak. What was compiled before an interruption is in Go's own cache and not compiled again; a program that
# is there is left as it is.
#
# A kubectl on the machine will do, and so will the kube-apiserver of KUBEBUILDER_ASSETS if etcd is beside it: they are not
# built. Needs a Go; one older than 1.24 is used only to fetch that.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
programs=(debian kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl helm)
version=$(awk '$1 == "require" && $2 == "k8s.io/kubernetes" { print $3 } $1 == "k8s.io/kubernetes" { print $2 }' "$here/go.mod")
helm_version=$(awk '$1 == "helm.sh/helm/v3" { print $2 }' "$here/helm/go.mod")
toolchain=go1.24.13
go=go
target=${TWINRUN_CACHE:-${HOME:-/root}/.cache/twinrun}/kubernetes/$version

say() { echo "kubernetes: $*" >&2; }
fail() {
  say "$*"
  exit 1
}

# The directory is named after the version of Kubernetes, so Helm is asked for its own.
is_built() {
  [ -x "$target/$1" ] && { [ "$1" != helm ] || [ "$("$target/helm" version --template '{{.Version}}')" = "$helm_version" ]; }
}

has_assets() {
  [ -x "${KUBEBUILDER_ASSETS:-}/kube-apiserver" ] && [ -x "${KUBEBUILDER_ASSETS:-}/etcd" ]
}

is_elsewhere() {
  case $1 in
    kubectl) command -v kubectl >/dev/null || { has_assets && [ -x "$KUBEBUILDER_ASSETS/kubectl" ]; } ;;
    kube-apiserver) has_assets ;;
    helm) command -v helm >/dev/null ;;
    *) return 1 ;;
  esac
}

can_build() {
  (cd "$here" && "$go" list -m) >"$target/go.log" 2>&1
}

# A Go that is too old can still fetch modules and check them, and a newer Go is a module as well. As modules carry no
# permissions and no go.mod of others, those are put right in a copy.
provide_go() {
  command -v go >/dev/null || fail "there is no Go. Install any (Debian: golang-go): an old one will do to fetch Go 1.24"
  if can_build; then
    return
  fi
  local own=${target%/*}/$toolchain source
  if [ ! -x "$own/bin/go" ]; then
    say "fetching $toolchain, as the machine's Go is too old: $(go version)"
    source=$(cd "$target" && GOTOOLCHAIN=local go mod download -json \
      "golang.org/toolchain@v0.0.1-$toolchain.$(go env GOOS)-$(go env GOARCH)" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
    [ -d "$source" ] || fail "$toolchain cannot be had; install Go 1.24 or newer"
    rm -rf "$own.new"
    cp -r "$source" "$own.new"
    chmod -R u+w "$own.new"
    chmod 755 "$own.new"/bin/* "$own.new"/pkg/tool/*/*
    find "$own.new/src" -name _go.mod -execdir mv {} go.mod ';'
    mv "$own.new" "$own"
  fi
  go=$own/bin/go
  # The old one's directory of libraries may be in the environment.
  export GOROOT=$own
  can_build || fail "$("$go" version) cannot build it: $(cat "$target/go.log")"
}

# Go names every package as it compiles it; the last one it names stands in the progress line.
show_progress() {
  local total=$1 count=0 line said=$SECONDS
  while IFS= read -r line; do
    count=$((count + 1))
    if ((SECONDS - said >= 10)); then
      said=$SECONDS
      say "$count of at most $total packages, $line"
    fi
  done
}

# All in one go: what they share is looked at once, and both cores have work to the end. usage: build MODULES STAMPS PACKAGE...
build() {
  local modules=$1 stamps=$2 names log total started=$SECONDS package
  shift 2
  names=$(for package in "$@"; do echo -n " ${package##*/}"; done)
  log=$target/${names##* }.log
  say "fetching what is needed for$names"
  total=$(cd "$modules" && "$go" list -deps "$@" 2>"$log" | wc -l) || {
    tail -5 "$log" >&2
    fail "modules cannot be had, see $log"
  }
  say "compiling$names"
  rm -rf "$target/new" && mkdir "$target/new"
  # Without the debugging tables a program is a third smaller, and made a fifth sooner when they are not even written. No cgo: the
  # program then needs no libraries, so it also runs in an image that holds nothing else.
  (cd "$modules" && CGO_ENABLED=0 "$go" build -v -mod=readonly -trimpath -gcflags=all=-dwarf=false -o "$target/new/" \
    -ldflags "-s -w $stamps" "$@") 2>&1 |
    tee "$log" | show_progress "$total" || {
    tail -15 "$log" >&2
    fail "it did not compile, all of the compiler's output: $log"
  }
  # Only when whole: a run that was cut off leaves nothing that looks ready.
  mv "$target"/new/* "$target"
  rmdir "$target/new"
  say "ready after $((SECONDS - started)) s:$names"
}

build_kubernetes() {
  build "$here" "-X k8s.io/component-base/version.gitVersion=$version" "${@/#/k8s.io/kubernetes/cmd/}"
}

build_helm() {
  local minor=${version#v1.} supposing stamps="-X helm.sh/helm/v3/internal/version.version=$helm_version"
  # The Kubernetes that `helm template` and `helm lint` suppose when they are not told.
  for supposing in chartutil lint/rules; do
    stamps="$stamps -X helm.sh/helm/v3/pkg/$supposing.k8sVersionMajor=1"
    stamps="$stamps -X helm.sh/helm/v3/pkg/$supposing.k8sVersionMinor=${minor%%.*}"
  done
  build "$here/helm" "$stamps" helm.sh/helm/v3/cmd/helm
}

# Installed they would be services of this machine, which nobody asked for.
unpack_debian() {
  local root=${target%/*}/debian
  if [ ! -d "$root" ]; then
    say "unpacking containerd, runc, the CNI plugins and busybox from Debian's packages"
    rm -rf "$root.new" && mkdir -p "$root.new/packages"
    (cd "$root.new/packages" &&
      apt-get -q download containerd runc containernetworking-plugins busybox-static) >"$target/debian.log" 2>&1 || {
      tail -5 "$target/debian.log" >&2
      fail "the packages cannot be had; apt-get update as root may help"
    }
    for package in "$root.new"/packages/*.deb; do
      dpkg -x "$package" "$root.new"
    done
    rm -r "$root.new/packages"
    mv "$root.new" "$root"
  fi
}

for program in "$@"; do
  case " ${programs[*]} " in
    *" $program "*) ;;
    *) fail "unknown program $program: ${programs[*]}" ;;
  esac
done
[ $# = 0 ] || programs=("$@")

mkdir -p "$target"
# Two runs at once would only compile the same twice.
exec 9>"$target/lock"
flock --nonblock 9 || {
  say "another run is at it, waiting"
  flock 9
}
missing=()
helm_is_missing=
for program in "${programs[@]}"; do
  if [ "$program" = debian ]; then
    unpack_debian
  elif is_built "$program" || is_elsewhere "$program"; then
    continue
  elif [ "$program" = helm ]; then
    helm_is_missing=yes
  else
    missing+=("$program")
  fi
done
if [ "${#missing[@]}" != 0 ] || [ "$helm_is_missing" != "" ]; then
  provide_go
fi
if [ "${#missing[@]}" != 0 ]; then
  build_kubernetes "${missing[@]}"
fi
if [ "$helm_is_missing" != "" ]; then
  build_helm
fi
echo "$target"
