#!/bin/bash
# Becomes a Kubernetes node: containerd and kubelet, in namespaces that the caller made (test/lab/kubernetes/node.ts).
#
# usage: node.sh DIRECTORY NODE CGROUP      NODE has a kubeconfig and the authority's certificate in DIRECTORY
#
# Root of new mount, PID and UTS namespaces, inside the network namespace of the node. With a PID namespace of its own a node
# ends as one, and what asks for the host's processes sees the node's; the cgroup keeps kubelets of one machine from
# taking each other's pods for strangers and deleting them. Needs cgroup v1 with a hierarchy for each controller.
set -euo pipefail
directory=$1 node=$2 cgroup=$3

hostname "$node"
# Pods with two-way mounts need it.
mount --make-rshared /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mount -t tmpfs cgroup /sys/fs/cgroup
for controller in cpu cpuacct cpuset memory devices freezer blkio pids; do
  mkdir "/sys/fs/cgroup/$controller"
  mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
  mkdir -p "/sys/fs/cgroup/$controller/$cgroup"
done
# A new cpuset is empty, and nothing can run in it.
for list in cpus mems; do
  cat "/sys/fs/cgroup/cpuset/cpuset.$list" >"/sys/fs/cgroup/cpuset/$cgroup/cpuset.$list"
done

export PATH=$DEBIAN_ROOT/usr/bin:$DEBIAN_ROOT/usr/sbin:$PATH
socket=/run/containerd.sock
containerd --config "$directory/containerd.toml" >"$directory/containerd.log" 2>&1 &
until ctr --address "$socket" version >/dev/null 2>&1; do
  kill -0 $! || exit 1
  sleep 0.1
done
for image in "$directory"/images/*.image; do
  ctr --address "$socket" --namespace k8s.io images import "$image" >>"$directory/containerd.log" 2>&1
done
exec "$KUBELET" "--config=$directory/kubelet.yaml" "--kubeconfig=$directory/kubeconfig" "--root-dir=$directory/kubelet" \
  "--cert-dir=$directory/kubelet-pki" "--hostname-override=$node" "--node-ip=$NODE_ADDRESS" >"$directory/kubelet.log" 2>&1
