/** libvirt in the pod: the daemon in session mode, and its domain through virsh. */
import { type ChildProcess, type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { existsSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { podPaths } from "../vmi.ts";

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

/**
 * One virsh for all commands: a process for each would take the processors that guests on the same machine need, and KubeVirt's
 * launcher speaks to libvirt without one.
 */
class Virsh {
  readonly #child: ChildProcessWithoutNullStreams;
  #said = "";
  #count = 0;
  /** Commands come one after the other. */
  #last: Promise<unknown> = Promise.resolve();
  #onSaid: (() => void) | undefined;

  constructor() {
    this.#child = spawn("sh", ["-c", `exec virsh --quiet --connect '${uri}' 2>&1`], { stdio: "pipe" });
    this.#child.stdout.setEncoding("utf8").on("data", (part: string) => {
      this.#said += part;
      this.#onSaid?.();
    });
    this.#child.stdin.on("error", () => undefined); // It has ended, which is what whoever asks is told.
    this.#child.once("close", () => this.#onSaid?.());
  }

  get hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  run(args: readonly string[]): Promise<string> {
    const answer = this.#last.then(() => this.#ask(args.map((word) => `'${word}'`).join(" ")));
    this.#last = answer.catch(() => undefined);
    return answer;
  }

  /** What is no terminal gets prompts and its own commands back, and `echo` ends without a new line. */
  async #ask(command: string): Promise<string> {
    this.#count += 1;
    const mark = `end-${this.#count}`;
    const end = `virsh # echo ${mark}\n${mark}`;
    this.#said = "";
    this.#child.stdin.write(`${command}\necho ${mark}\n`);
    while (!this.#said.includes(end)) {
      if (this.hasEnded) {
        throw new Error(`virsh ended: ${this.#said}`);
      }
      await new Promise<void>((resolve) => (this.#onSaid = resolve));
    }
    const said = this.#said.slice(this.#said.indexOf(command) + command.length, this.#said.indexOf(end)).trim();
    if (/^error: /m.test(said)) {
      throw new Error(`virsh ${command}: ${said}`);
    }
    return said;
  }
}

let virsh: Virsh | undefined;

/** One command of virsh; what it printed. Rejects with what it said when it failed. */
export function runVirsh(...args: string[]): Promise<string> {
  if (virsh === undefined || virsh.hasEnded) {
    virsh = new Virsh();
  }
  return virsh.run(args);
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
