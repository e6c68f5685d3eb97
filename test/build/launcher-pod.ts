/**
 * A pod that runs QEMU as KubeVirt's virt-launcher does, as far as an agent and an engine can tell: a root of its own (where
 * /var/run is an absolute link, as in many images), user 107 without capabilities or a way to get any, QEMU's sandbox on, and
 * the environment, the second monitor and the arguments that src/hook/domain-edit.ts adds. It ends with its QEMU. Where it is told
 * its name it has a cgroup and a directory for logs as kubelet makes them.
 *
 * Needs root. Everything it mounts is in a mount namespace of its own and goes with it.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { randomUUID } from "node:crypto";
import { existsSync, mkdirSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { QMP_PATH_IN_POD } from "../../src/api/vmi-contract.ts";
import { type GuestShape } from "../../src/protocol/assignment.ts";

export const QEMU_USER = 107;

/** With version 1 every controller has a tree of its own, and any will do. */
const CGROUPS = existsSync("/sys/fs/cgroup/cgroup.controllers") ? "/sys/fs/cgroup" : "/sys/fs/cgroup/pids";

const BUILD = fileURLToPath(new URL("../../build", import.meta.url));

export type PodOptions = {
  readonly guest: string;
  readonly node: string;
  readonly shape: GuestShape;
  /** An empty directory of this pod. */
  readonly root: string;
  /** What kubelet would know of it. */
  readonly kubelet?: { readonly namespace: string; readonly name: string; readonly logsDirectory: string };
  readonly qemuArgs: readonly string[];
  /** Files and directories that the pod sees under the same path. They have to be QEMU's to use. */
  readonly mounts?: readonly string[];
  /** What to start it with, such as `ip netns exec NAME`. */
  readonly prefix?: readonly string[];
  /** Shell commands, run as QEMU's user in the pod before QEMU. */
  readonly prepare?: string;
  /** Run in place of QEMU. */
  readonly program?: readonly string[];
  /** What libvirt's file on this guest begins with, where there is to be one. */
  readonly libvirtStatus?: string;
  /** Not those of a protected guest's QEMU: for others that must be left alone. */
  readonly environment?: Readonly<Record<string, string>>;
};

const SCRIPT = `set -e
root=$1 status=$2; shift 2
mount -t tmpfs -o mode=755 pod "$root"
cd "$root"
mkdir -p usr etc dev proc run/kubevirt-private run/libvirt/qemu/run var tmp twinrun
for name in usr etc dev proc; do mount --rbind "/$name" "$name"; done
for name in bin lib lib64 sbin; do [ ! -e "/$name" ] || cp -a "/$name" .; done
ln -s /run var/run
if [ -e dev/net/tun ]; then
  mount -t tmpfs -o mode=755 pod dev/net
  mknod -m 666 dev/net/tun c 10 200
fi
[ -z "$status" ] || echo "$status" >run/libvirt/qemu/run/domain.xml
mount --bind "$TWINRUN_TEST_BUILD" twinrun
for path in $TWINRUN_TEST_MOUNTS; do
  if [ -d "$path" ]; then mkdir -p ".$path"; else mkdir -p ".$(dirname "$path")"; touch ".$path"; fi
  mount --bind "$path" ".$path"
done
mkdir -p run/kubevirt-ephemeral-disks
chown -R ${QEMU_USER}:${QEMU_USER} run/kubevirt-private run/kubevirt-ephemeral-disks run/libvirt tmp
[ -z "$TWINRUN_TEST_PREPARE" ] ||
  chroot . setpriv --reuid ${QEMU_USER} --regid ${QEMU_USER} --clear-groups sh -ec "$TWINRUN_TEST_PREPARE"
unset TWINRUN_TEST_BUILD TWINRUN_TEST_MOUNTS TWINRUN_TEST_PREPARE
exec chroot . setpriv --reuid ${QEMU_USER} --regid ${QEMU_USER} --clear-groups \\
  --bounding-set=-all --inh-caps=-all --no-new-privs "$@"`;

export class LauncherPod {
  readonly process: ChildProcess;
  /** What QEMU and the script said. */
  output = "";
  readonly #cgroup: string | undefined;

  constructor(options: PodOptions) {
    const { guest, node, shape, root, qemuArgs, mounts = [], prefix = [], libvirtStatus = "", program } = options;
    mkdirSync(root, { recursive: true });
    const environment = {
      ...(program === undefined ? { LD_PRELOAD: "/twinrun/twinrun-shim.so" } : {}),
      ...{
        TWINRUN_SHIM: "1",
        TWINRUN_OUTPUT: "held",
        TWINRUN_GUEST: guest,
        TWINRUN_NODE: node,
      },
      ...options.environment,
    };
    const assigned = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
    const command = program ?? ["qemu-system-x86_64", ...qemuArgs, ...listHookedArguments(shape)];
    const unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SCRIPT, "pod", root, libvirtStatus];
    const [first = "", ...others] = [...prefix, ...unshare, "env", ...assigned, ...command];
    this.process = spawn(first, others, {
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        PATH: process.env["PATH"],
        TWINRUN_TEST_BUILD: BUILD,
        TWINRUN_TEST_MOUNTS: mounts.join(" "),
        TWINRUN_TEST_PREPARE: options.prepare ?? "",
      },
    });
    this.#cgroup = options.kubelet === undefined ? undefined : this.#placeInPod(options.kubelet);
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream?.on("data", (chunk: Buffer) => {
        this.output += chunk.toString();
      });
    }
  }

  #placeInPod({ namespace, name, logsDirectory }: NonNullable<PodOptions["kubelet"]>): string {
    const uid = randomUUID();
    mkdirSync(join(logsDirectory, `${namespace}_${name}_${uid}`), { recursive: true });
    const cgroup = join(CGROUPS, `pod${uid}`);
    mkdirSync(join(cgroup, "compute"), { recursive: true });
    writeFileSync(join(cgroup, "compute/cgroup.procs"), String(this.pid));
    return cgroup;
  }

  /** Every step of the way replaces the program, so this is QEMU's id as well. */
  get pid(): number {
    return this.process.pid ?? 0;
  }

  get isOver(): boolean {
    return this.process.exitCode !== null || this.process.signalCode !== null;
  }

  async end(): Promise<void> {
    if (!this.isOver) {
      const exited = new Promise((resolve) => this.process.once("exit", resolve));
      this.process.kill("SIGKILL");
      await exited;
    }
    if (this.#cgroup !== undefined && existsSync(this.#cgroup)) {
      rmdirSync(join(this.#cgroup, "compute"));
      rmdirSync(this.#cgroup);
    }
  }

  /** A path of the pod as the host sees it while the pod lives. */
  pathOf(inPod: string): string {
    return join(`/proc/${this.pid}/root`, inPod);
  }
}

/** As libvirt and the hook have it. */
function listHookedArguments(shape: GuestShape): readonly string[] {
  return [
    ...["-S", "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
    ...["-chardev", `socket,id=twinrun,path=${QMP_PATH_IN_POD},server=on,wait=off`],
    ...["-mon", "chardev=twinrun,mode=control", "-global", "migration.send-configuration=off"],
    ...(shape === "standby" ? ["-incoming", "defer"] : []),
  ];
}
