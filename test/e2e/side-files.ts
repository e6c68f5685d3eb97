/** What a side of a guest has in its pod, seen from this machine: the lab's nodes are of it. */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { qemuEnvironment } from "../../src/api/vmi-contract.ts";
import { assert, present } from "../../src/lib/assert.ts";
import { diskPathOf, podPaths } from "../lab/kubernetes/kubevirt/vmi.ts";

/** The QEMU that is a side of the guest on this node. */
export function qemuOf(guest: string, node: string): number {
  const isQemu = (pid: string): boolean => {
    try {
      const environment = readFileSync(`/proc/${pid}/environ`, "utf8").split("\0");
      return (
        environment.includes(`${qemuEnvironment.guest}=${guest}`) &&
        environment.includes(`${qemuEnvironment.node}=${node}`) &&
        readFileSync(`/proc/${pid}/comm`, "utf8").startsWith("qemu-system")
      );
    } catch {
      return false; // It has ended, or belongs to the kernel.
    }
  };
  const pid = readdirSync("/proc").find((entry) => /^\d+$/.test(entry) && isQemu(entry));
  return Number(present(pid, `a QEMU of ${guest} on ${node}`));
}

/** The root of its pod. */
export const rootOf = (guest: string, node: string): string => `/proc/${qemuOf(guest, node)}/root`;

/** What the guest has on a volume. */
export const diskOf = (guest: string, node: string, volume = "disk"): string =>
  `${rootOf(guest, node)}${diskPathOf(volume)}`;

const serialName = "virt-serial0-log";
const readyLine = "twinrun: guest ready";
const lookMs = 10;

/** What a guest that talks from its kernel's start on (`isVerbose`) says on the serial line of one of its sides. */
export class SerialLine {
  readonly #path: string;
  readonly #saidBytes: number;

  /** Of what it says from now on. */
  constructor(guest: string, node: string) {
    const root = `${rootOf(guest, node)}${podPaths.private}`;
    const path = readdirSync(root)
      .map((name) => `${root}/${name}/${serialName}`)
      .find((each) => existsSync(each));
    this.#path = present(path, `a serial line of ${guest} on ${node}`);
    this.#saidBytes = statSync(this.#path).size;
  }

  read(): string {
    return readFileSync(this.#path, "latin1").slice(this.#saidBytes);
  }

  /** Resolves when the guest's kernel says its first words. */
  waitForKernel(timeoutMs: number): Promise<void> {
    return this.#waitFor("Linux version", timeoutMs);
  }

  /** Resolves when the guest has come to its services. */
  waitForServices(timeoutMs: number): Promise<void> {
    return this.#waitFor(readyLine, timeoutMs);
  }

  async #waitFor(words: string, timeoutMs: number): Promise<void> {
    const deadlineMs = Date.now() + timeoutMs;
    while (!this.read().includes(words)) {
      assert(Date.now() < deadlineMs, `the guest says "${words}" within ${timeoutMs} ms; it said: ${this.read()}`);
      await sleep(lookMs);
    }
  }
}
