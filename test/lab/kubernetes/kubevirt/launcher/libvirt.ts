/** libvirt in the pod: the daemon in session mode, and its domain through virsh. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { existsSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { podPaths } from "../vmi.ts";

const run = promisify(execFile);

export const libvirtSocket = `${podPaths.libvirt}/virtqemud-sock`;
const uri = `qemu+unix:///session?socket=${libvirtSocket}`;

/** As in cmd/virt-launcher/qemu.conf, but for virtlogd: QEMU's own log is a plain file. */
const qemuConf = `stdio_handler = "file"
vnc_listen = "0.0.0.0"
vnc_tls = 0
namespaces = []
cgroup_controllers = []
remember_owner = 0
`;

/** What `virsh domstate --reason` says, such as `paused` and `user`. */
export type DomainState = { readonly state: string; readonly reason: string };

/** Starts the daemon and waits until it answers. Debian has one daemon for all drivers; its socket gets KubeVirt's name too. */
export async function startLibvirt(): Promise<ChildProcess> {
  mkdirSync(`${podPaths.private}/libvirt`, { recursive: true });
  writeFileSync(`${podPaths.private}/libvirt/qemu.conf`, qemuConf);
  const daemon = spawn("libvirtd", [], { stdio: ["ignore", "inherit", "inherit"] });
  while (!existsSync(`${podPaths.libvirt}/libvirt-sock`)) {
    if (daemon.exitCode !== null) {
      throw new Error(`libvirtd ended with status ${daemon.exitCode}`);
    }
    await sleep(50);
  }
  symlinkSync("libvirt-sock", libvirtSocket);
  return daemon;
}

/** One command of virsh; what it printed. */
export async function runVirsh(...args: string[]): Promise<string> {
  const { stdout } = await run("virsh", ["--quiet", "--connect", uri, ...args]);
  return stdout.trim();
}

/** Undefined when there is no such domain: it was never started, or it is over (domains of KubeVirt's are not kept). */
export async function readDomainState(domain: string): Promise<DomainState | undefined> {
  try {
    const match = /^(.*?) \((.*)\)$/.exec(await runVirsh("domstate", domain, "--reason"));
    return { state: match?.[1] ?? "unknown", reason: match?.[2] ?? "unknown" };
  } catch {
    return undefined;
  }
}

/** Every lifecycle event of the domain as its two words, such as `Suspended Paused`, until the daemon ends. */
export function watchDomainEvents(onEvent: (event: string) => void): ChildProcess {
  const child = spawn("virsh", ["--quiet", "--connect", uri, "event", "--all", "--loop"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  createInterface(child.stdout).on("line", (line) => {
    const match = /^event 'lifecycle' for domain '.*': (.*)$/.exec(line);
    if (match?.[1] !== undefined) {
      onEvent(match[1]);
    }
  });
  return child;
}
