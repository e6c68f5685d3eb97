/**
 * One QEMU as its engine holds it: monitor, memory, output gate, process. Opened when the agent has found or started it.
 */
import { closeSync, openSync, readSync } from "node:fs";
import { present } from "../lib/assert.ts";
import {
  type DiskAssignment,
  type EngineConfig,
  type FoundGuest,
  hasRunGuest,
  type TrackerMethod,
} from "../protocol/assignment.ts";
import { type MachineShape } from "../protocol/messages.ts";
import { GuestMemory } from "../memory/guest-memory.ts";
import { enlargePipe } from "../memory/libc.ts";
import { type NotedMapping, type PlacedBlock, planRamBlocks } from "../memory/ram-blocks.ts";
import { applyNice, findThread, type GuestProcess, listThreads, openGuestProcess } from "../memory/guest-process.ts";
import { type OutputGate } from "../memory/output-gate.ts";
import { type Shim, ShimFailure, openShim } from "../memory/shim.ts";
import { StandbyTaps } from "../memory/standby-taps.ts";
import { Checkpointer } from "../qemu/device-state.ts";
import { releaseWriter } from "../qemu/held-pipe.ts";
import { type GuestEvent, watchGuest } from "../qemu/guest-events.ts";
import {
  countModels,
  describeDeviceChange,
  listObstacles,
  type Machine,
  readDevices,
  readMachine,
} from "../qemu/machine.ts";
import { parseFilterIndex, removeLeftoverMirrors } from "../qemu/mirror.ts";
import { QmpClient } from "../qemu/qmp-client.ts";
import { Standby } from "../qemu/standby.ts";
import { type Log } from "../telemetry/log.ts";
import { type PlacedDisk, placeDisks } from "./placed-disks.ts";
import { QemuFiles, type SharedPath } from "./qemu-files.ts";
import { makeDisksRaw, type RawProgress } from "./raw-disks.ts";

export type GuestListener = {
  readonly onDeath: (why: string) => void;
  readonly onEvent: (event: GuestEvent) => void;
  readonly onMakingRaw: RawProgress;
};

/** QEMU's main loop carries every stop, save and packet: it goes before the work of the virtual CPUs. */
const MAIN_LOOP_NICE = -10;

/** What the shim gives access to. */
type Held = { readonly shim: Shim; readonly memory: GuestMemory };

export class Guest {
  readonly found: FoundGuest;
  readonly qmp: QmpClient;
  readonly machine: Machine;
  readonly process: GuestProcess;
  /** Why this guest cannot be protected, each with the remedy; empty when it can. It runs all the same. */
  readonly obstacles: readonly string[];
  /** Those of its disks that are copied; all of them unless there is an obstacle. */
  readonly disks: readonly PlacedDisk[];
  /** The socket on which the disk mirrors of this QEMU are served. */
  readonly mirrorSocket: SharedPath;
  /** Where a waiting QEMU writes down what a boot begins from. */
  readonly bootState: SharedPath;
  /** Of a running or stopped guest; a standby's comes with its activation. */
  checkpointer: Checkpointer | undefined;
  /** Of a QEMU that waits for its state. */
  standby: Standby | undefined;
  readonly #held: Held | ShimFailure;
  /** Of a QEMU that waits for its state. */
  #taps: StandbyTaps | undefined;
  #closed = false;
  /** The stat files of the threads that run virtual CPUs. */
  #cpuFds: number[] = [];
  readonly #stat = Buffer.alloc(64);
  readonly #fifo: SharedPath;
  #unwatch: () => void = () => undefined;

  private constructor(
    parts: Pick<Guest, "found" | "qmp" | "machine" | "process"> & {
      readonly held: Held | ShimFailure;
      readonly notRaw: readonly string[];
    },
    files: QemuFiles,
    wantedDisks: readonly DiskAssignment[],
  ) {
    this.found = parts.found;
    this.qmp = parts.qmp;
    this.#held = parts.held;
    this.machine = parts.machine;
    this.process = parts.process;
    this.#fifo = files.shared("state.fifo");
    this.mirrorSocket = files.shared("mirror.sock");
    this.bootState = files.shared("boot.state");
    const { disks, missing } = placeDisks(wantedDisks, this.machine, files);
    this.disks = disks;
    const general = listObstacles(this.machine, { hasShim: true }).map(({ message }) => message);
    const others = [...parts.notRaw, ...general, ...missing];
    this.obstacles = this.#held instanceof ShimFailure ? [this.#held.message, ...others] : others;
  }

  static async attach(found: FoundGuest, config: EngineConfig, listener: GuestListener, log: Log): Promise<Guest> {
    const process = openGuestProcess(found.pid, found.startTime);
    const files = new QemuFiles(found);
    releaseWriter(files.shared("state.fifo").own);
    const qmp = await QmpClient.connect(found.qmpPath, {
      connectTimeoutMs: 10_000,
    });
    const shim = findShim(found.pid);
    if (!(shim instanceof ShimFailure) && shim.gate.mode === "leased") {
      shim.gate.setMode("held"); // Without its mirrors the guest is told of writes that the standby lacks.
    }
    // Before looking at the disks: under a mirror a raw disk looks like one that is none.
    const left = await removeLeftoverMirrors(qmp);
    const before = await readMachine(qmp);
    const { onMakingRaw } = listener;
    const raw = await makeDisksRaw(config.disks, { qmp, machine: before, files, onProgress: onMakingRaw });
    const machine = raw.isChanged ? await readMachine(qmp) : before;
    const held = shim instanceof ShimFailure ? shim : { shim, memory: openMemory(found.pid, machine, shim, config) };
    const guest = new Guest({ found, qmp, held, machine, process, notRaw: raw.failed }, files, config.disks);
    log.debug({ pid: found.pid, machine: machine.type, leftoverMirrors: left }, "attached to QEMU");
    guest.#watch(listener);
    for (const cpu of await qmp.execute("query-cpus-fast", {})) {
      const tid = present(findThread(found.pid, cpu["thread-id"]), "the thread of a virtual CPU");
      guest.#cpuFds.push(openSync(`/proc/${found.pid}/task/${tid}/stat`, "r"));
    }
    guest.#raisePriority(log);
    if (guest.obstacles.length > 0) {
      return guest;
    }
    if (machine.runState === "inmigrate") {
      const toOwn = (path: string): string => files.own(path);
      guest.standby = await Standby.prepare(qmp, files.shared("incoming.sock").inQemu, toOwn);
      guest.#taps = StandbyTaps.open(found.pid);
    } else {
      await guest.openCheckpointer();
    }
    return guest;
  }

  /** Only of a guest without obstacles. */
  get shim(): Shim {
    return present(this.#parts?.shim, "the shim");
  }

  /** Only of a guest without obstacles. */
  get memory(): GuestMemory {
    return present(this.#parts?.memory, "the guest's memory");
  }

  /** Whether KubeVirt, too, can only press the power button to shut the guest down, and not ask the agent in it. */
  setButtonOnly(on: boolean): void {
    this.#parts?.shim.setButtonOnly(on);
  }

  /** Undefined without the shim: then what the guest sends leaves at once. */
  get gate(): OutputGate | undefined {
    return this.#parts?.shim.gate;
  }

  get pageCount(): number {
    return this.#parts?.memory.pageCount ?? 0;
  }

  get tracker(): TrackerMethod | undefined {
    return this.#parts?.memory.method;
  }

  /** A QEMU that was started to wait for the state of another. */
  get isIncoming(): boolean {
    return this.machine.runState === "inmigrate";
  }

  get #parts(): Held | undefined {
    return this.#held instanceof ShimFailure ? undefined : this.#held;
  }

  get hasRun(): boolean {
    return hasRunGuest(this.machine.runState);
  }

  /** The disk of a failure. Under a mirror QEMU names the mirror's filter. */
  findDisk({ node, device }: { readonly node: string | undefined; readonly device: string }): PlacedDisk | undefined {
    const index = parseFilterIndex(node ?? "");
    return index === undefined
      ? this.disks.find((disk) => disk.device === node || disk.device === device)
      : this.disks[index];
  }

  /** Whether a virtual CPU has something to do right now; about 5 µs for each. */
  isBusy(): boolean {
    return this.#cpuFds.some((fd) => {
      try {
        const bytes = readSync(fd, this.#stat, 0, this.#stat.length, 0);
        // "PID (name) S …": R is running or wants to.
        return this.#stat.toString("latin1", 0, bytes).includes(") R ");
      } catch {
        return false;
      }
    });
  }

  /** Of a standby: throws away what has come in for the guest, which the other side has got too. */
  discardInput(): void {
    this.#taps?.discard();
  }

  /** Of a standby, before it asks for the guest: what clients send from now on waits here. */
  announceStandby(): void {
    this.#taps?.announce(this.machine.nics);
  }

  /** What comes in from now on is the guest's. */
  keepInput(): void {
    this.#taps?.close();
    this.#taps = undefined;
  }

  async openCheckpointer(): Promise<void> {
    const options = {
      mode: 0o666,
      enlarge: enlargePipe,
      pathInQemu: this.#fifo.inQemu,
    };
    this.checkpointer = await Checkpointer.open(this.qmp, this.#fifo.own, options);
  }

  shape(disks: MachineShape["disks"]): MachineShape {
    return {
      qemuVersion: this.machine.qemuVersion,
      machine: this.machine.type,
      ramBlocks: (this.#parts?.memory.blocks ?? []).map(({ name, bytes }) => ({ name, bytes })),
      disks,
      devices: countModels(this.machine.devices),
    };
  }

  /** What was plugged in or taken out since this QEMU was attached to; undefined when nothing was. */
  async findDeviceChange(): Promise<string | undefined> {
    return describeDeviceChange(this.machine.devices, await readDevices(this.qmp));
  }

  /** Lets QEMU be; it goes on as it is. */
  async close(): Promise<void> {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    this.#unwatch();
    this.#cpuFds.forEach((fd) => {
      closeSync(fd);
    });
    this.#cpuFds = [];
    this.keepInput();
    await this.checkpointer?.close().catch(() => undefined);
    this.qmp.close();
    this.#parts?.memory.close();
    this.#parts?.shim.close();
    this.process.close();
  }

  #watch(listener: GuestListener): void {
    const once = (why: string): void => {
      if (!this.#closed) {
        listener.onDeath(why);
      }
    };
    // Not its death: the kernel takes the memory of a killed QEMU apart first, which is 100 ms and more for a large guest.
    this.process.onDying(() => {
      once("the process ended");
    });
    void this.qmp.closed.then((why) => {
      once(`the monitor closed: ${why}`);
    });
    this.#unwatch = watchGuest(this.qmp, listener.onEvent);
  }

  #raisePriority(log: Log): void {
    try {
      for (const { tid, name } of listThreads(this.found.pid)) {
        if (tid === this.found.pid || name.startsWith("IO ")) {
          applyNice(tid, MAIN_LOOP_NICE);
        }
      }
    } catch (error) {
      log.debug({ error }, "QEMU's priority stays as it is");
    }
  }
}

/** A QEMU without the shim is no failure: such a guest runs, only unprotected. */
function findShim(pid: number): Shim | ShimFailure {
  try {
    return openShim(pid);
  } catch (error) {
    if (error instanceof ShimFailure && error.detail.code === "ShimMissing") {
      return error;
    }
    throw error;
  }
}

function openMemory(pid: number, machine: Machine, shim: Shim, { tracker }: EngineConfig): GuestMemory {
  return GuestMemory.open({ pid, blocks: placeRamBlocks(machine, shim.mappings), shim, method: tracker });
}

/** The blocks that change, where they lie in QEMU. Equal QEMUs allocate them in equal order, so the mappings tell where. */
function placeRamBlocks({ ramBlocks }: Machine, mappings: readonly NotedMapping[]): readonly PlacedBlock[] {
  const told = ramBlocks.flatMap(({ name, bytes, address }) =>
    address === undefined ? [] : [{ name, bytes, address }],
  );
  const placed = told.length === ramBlocks.length ? told : planRamBlocks(ramBlocks, mappings);
  const constant = new Set(ramBlocks.filter(({ isConstant }) => isConstant).map(({ name }) => name));
  return placed.filter(({ name }) => !constant.has(name));
}
