/**
 * The engine's side of the preload shim inside of QEMU (shim/shim.c): finds it, duplicates its descriptors, reads its tables.
 *
 * One engine at a time: the shim's memory is locked (flock) for as long as it is open here, and the lock goes with the process.
 * Two engines that release the same held packets would send them twice.
 *
 * Works from another mount namespace: everything is reached through /proc/PID/fd and pidfd_getfd.
 */
import { closeSync, openSync, readdirSync, readlinkSync } from "node:fs";
import { Failure } from "../lib/failure.ts";
import { flock, openDuplicate, openMapping, openPidfd } from "./libc.ts";
import { OutputGate } from "./output-gate.ts";
import { type NotedMapping } from "./ram-blocks.ts";
import * as layout from "./shim-layout.ts";

const { WORD } = layout;
const LOCK_EX_NB = 6;

export class ShimFailure extends Failure<
  | { readonly code: "ShimMissing"; readonly pid: number }
  | { readonly code: "ShimVersionMismatch"; readonly pid: number; readonly found: number; readonly wanted: number }
  | { readonly code: "ShimInUse"; readonly pid: number }
  | { readonly code: "ShimMappingsLost"; readonly pid: number }
> {}

export interface Shim {
  readonly gate: OutputGate;
  /** RAM block mappings of that QEMU, oldest first. */
  readonly mappings: readonly NotedMapping[];
  /** A duplicate of QEMU's userfaultfd, or -1 where the kernel has none; see userfaultError then. */
  readonly userfaultfd: number;
  readonly userfaultError: number;
  /** While on, QEMU's monitors do not see STOP and RESUME events; also those of this engine. */
  setQuiet(on: boolean): void;
  /** While on, libvirt shuts the guest down by its power button, which QEMU tells of, and never through the agent in the guest. */
  setButtonOnly(on: boolean): void;
  /** Changes when QEMU maps one more block than it ever had: memory, or a device with memory of its own, is plugged in. */
  readonly mappingsCount: number;
  /** Events swallowed so far. */
  readonly quietedEvents: number;
  /** Leaves mode and ring as they are: what is held stays held. */
  close(): void;
}

/** Connects to the shim of QEMU `pid`. */
export function openShim(pid: number): Shim {
  const opened = new DisposableStack();
  try {
    const fd = openSharedMemory(pid);
    opened.defer(() => {
      closeSync(fd);
    });
    // SAFETY: integers only.
    if (flock(fd, LOCK_EX_NB) !== 0) {
      throw new ShimFailure(
        { code: "ShimInUse", pid },
        `another engine holds the output gate of QEMU ${pid}: let it end before starting a new one`,
      );
    }
    const { ringOffset, ringBytes } = readGeometry(pid, fd);
    const mapping = openMapping(fd, ringOffset + ringBytes);
    opened.defer(() => {
      mapping.close();
    });
    const words = new Int32Array(mapping.bytes, 0, ringOffset / 4);
    const pidfd = openPidfd(pid);
    opened.defer(() => {
      closeSync(pidfd);
    });
    const userfaultfd = openUserfaultfd(pidfd, words, opened);
    const mappings = readMappings(pid, mapping.bytes);
    const wakeFd = openDuplicate(pidfd, words[WORD.wakeFd] as number);
    const gate = new OutputGate({ pid, pidfd, wakeFd, memory: mapping.bytes, ringOffset, ringBytes });
    opened.defer(() => {
      gate.close();
    });
    return new OpenShim({ gate, mappings, userfaultfd, words, resources: opened.move() });
  } finally {
    opened.dispose();
  }
}

/** Whether QEMU `pid` passes packets through the kernel (vhost-net), where no gate can hold them. */
export function hasVhostNet(pid: number, device = "/dev/vhost-net"): boolean {
  return listLinks(pid).some(({ link }) => link === device);
}

type OpenShimParts = Pick<Shim, "gate" | "mappings" | "userfaultfd"> & {
  readonly words: Int32Array;
  readonly resources: DisposableStack;
};

class OpenShim implements Shim {
  readonly gate: OutputGate;
  readonly mappings: readonly NotedMapping[];
  readonly userfaultfd: number;
  readonly userfaultError: number;
  readonly #words: Int32Array;
  readonly #resources: DisposableStack;

  constructor({ gate, mappings, userfaultfd, words, resources }: OpenShimParts) {
    this.gate = gate;
    this.mappings = mappings;
    this.userfaultfd = userfaultfd;
    this.userfaultError = words[WORD.userfaultError] as number;
    this.#words = words;
    this.#resources = resources;
    this.setQuiet(false); // An engine that died in the midst of a checkpoint left it on.
    this.setButtonOnly(false);
  }

  setQuiet(on: boolean): void {
    Atomics.store(this.#words, WORD.quiet, on ? 1 : 0);
  }

  setButtonOnly(on: boolean): void {
    Atomics.store(this.#words, WORD.buttonOnly, on ? 1 : 0);
  }

  get mappingsCount(): number {
    return Atomics.load(this.#words, WORD.mappingCount) >>> 0;
  }

  get quietedEvents(): number {
    return Atomics.load(this.#words, WORD.quieted) >>> 0;
  }

  close(): void {
    if (!this.#resources.disposed) {
      this.setQuiet(false);
      this.setButtonOnly(false);
      this.#resources.dispose();
    }
  }
}

function openSharedMemory(pid: number): number {
  const found = listLinks(pid).find(({ link }) => link === layout.SHIM_LINK);
  if (found === undefined) {
    throw new ShimFailure(
      { code: "ShimMissing", pid },
      `QEMU ${pid} runs without the twinrun shim: name twinrun-shim.so as "shim" in the agent's file and start the guest anew`,
    );
  }
  return openSync(`/proc/${pid}/fd/${found.fd}`, "r+");
}

function listLinks(pid: number): { fd: string; link: string }[] {
  const links: { fd: string; link: string }[] = [];
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      links.push({ fd, link: readlinkSync(`/proc/${pid}/fd/${fd}`) });
    } catch {
      // Closed meanwhile.
    }
  }
  return links;
}

function openUserfaultfd(pidfd: number, words: Int32Array, opened: DisposableStack): number {
  const theirs = words[WORD.userfaultfd] as number;
  if (theirs < 0) {
    return -1;
  }
  const fd = openDuplicate(pidfd, theirs);
  opened.defer(() => {
    closeSync(fd);
  });
  return fd;
}

/** The version decides how the rest is read, so it is looked at through a mapping of the first words only. */
function readGeometry(pid: number, fd: number): { ringOffset: number; ringBytes: number } {
  const header = openMapping(fd, layout.MAPPINGS_OFFSET);
  const words = new Int32Array(header.bytes);
  const magic = Atomics.load(words, WORD.magic);
  const found = words[WORD.version] as number;
  const geometry = { ringOffset: words[WORD.ringOffset] as number, ringBytes: words[WORD.ringBytes] as number };
  header.close();
  if (magic !== layout.SHIM_MAGIC || found !== layout.SHIM_VERSION) {
    const wanted = layout.SHIM_VERSION;
    throw new ShimFailure(
      { code: "ShimVersionMismatch", pid, found, wanted },
      `QEMU ${pid} has version ${found} of the twinrun shim loaded and this engine speaks ${wanted}: restart the guest with the shim of this release`,
    );
  }
  return geometry;
}

function readMappings(pid: number, memory: ArrayBuffer): readonly NotedMapping[] {
  const words = new Int32Array(memory);
  if ((words[WORD.mappingsLost] as number) > 0) {
    throw new ShimFailure(
      { code: "ShimMappingsLost", pid },
      `QEMU ${pid} has more RAM blocks than the shim can note: reduce its memory devices`,
    );
  }
  const view = new DataView(memory);
  const found: (NotedMapping & { order: number })[] = [];
  for (let slot = 0; slot < Atomics.load(words, WORD.mappingCount); slot++) {
    const at = layout.MAPPINGS_OFFSET + slot * layout.MAPPING_BYTES;
    const bytes = Number(view.getBigUint64(at + 8, true));
    if (bytes > 0) {
      const shared = (view.getUint32(at + 16, true) & layout.MAPPING_SHARED) !== 0;
      found.push({ address: view.getBigUint64(at, true), bytes, shared, order: view.getUint32(at + 20, true) });
    }
  }
  return found.sort((a, b) => a.order - b.order).map(({ address, bytes, shared }) => ({ address, bytes, shared }));
}
