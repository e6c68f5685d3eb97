/**
 * A QEMU with its guest, the shim before its network card, and the disk of its host.
 *
 * The guest answers numbered requests, each after a synced disk write, and does things on its own (ticks). It accepts requests
 * in order only and repeats a reply when a request comes again, as TCP would.
 */
import { type World } from "./world.ts";
import { type SimHost } from "./host.ts";
import {
  addHistory,
  blockOf,
  type Cell,
  DISK_BLOCKS,
  findRequest,
  type History,
  isDiskWhole,
  isRamWhole,
  pageOf,
  RAM_PAGES,
} from "./history.ts";
import { type Planned } from "./clock.ts";

export type Packet = { readonly entry: History; readonly reply: boolean };
export type GateMode = "open" | "held" | "closed" | "leased";
/** Who mirrors the guest's writes; gone with its engine. */
export type GuestWatcher = {
  readonly onWrite: (block: number) => void;
  readonly onOutput: () => void;
  /** HighAvailability: calls back when the standby has what was written so far. */
  readonly whenAcknowledged?: (then: () => void) => void;
};

/** An image file: what is in it, and what would still be in it after a loss of power. */
export class SimDisk {
  readonly cells: Cell[] = new Array<Cell>(DISK_BLOCKS).fill(undefined);
  readonly durable: Cell[] = new Array<Cell>(DISK_BLOCKS).fill(undefined);

  get isSynced(): boolean {
    return this.cells.every((cell, index) => cell === this.durable[index]);
  }

  write(block: number, cell: Cell, synced: boolean): void {
    this.cells[block] = cell;
    if (synced) {
      this.durable[block] = cell;
    }
  }

  sync(): void {
    this.cells.forEach((cell, index) => {
      this.durable[index] = cell;
    });
  }

  /** What a file system's own repair does: the newest request that is whole counts. */
  repair(): void {
    let at = this.cells[0];
    for (let count = 1; count < DISK_BLOCKS && at !== undefined; count += 1) {
      this.write(blockOf(at), at, true);
      at = at.before?.lastRequest;
    }
  }

  losePower(keeps: () => boolean): void {
    this.cells.forEach((cell, index) => {
      const left = keeps() ? cell : this.durable[index];
      this.cells[index] = left;
      this.durable[index] = left;
    });
  }
}

export class SimGuest {
  readonly id: number;
  readonly startedAs: "primary" | "standby";
  readonly ram: Cell[] = new Array<Cell>(RAM_PAGES).fill(undefined);
  /** Pages written since they were last scanned. */
  readonly dirty = new Set<number>();
  mode: GateMode = "held";
  isAlive = true;
  /** Waits for its state. */
  isIncoming: boolean;
  isRunning = false;
  leasedUntilMs = 0;
  /** Until then QEMU looks for a mirror that went away with its engine. */
  #writesWaitUntilMs = 0;
  /** Answers that came while the guest stood still. */
  #late: (() => void)[] = [];
  /** Under which it was booted or took over. */
  term = 0;
  watcher: GuestWatcher | undefined;
  readonly held: Packet[] = [];
  /** Packets ever put into the ring, and ever taken from it. */
  ringHead = 0;
  ringTail = 0;
  readonly #world: World;
  readonly #host: SimHost;
  readonly #inputs: number[] = [];
  #working: Planned | undefined;
  #ticking: Planned | undefined;

  constructor(world: World, host: SimHost, startedAs: "primary" | "standby") {
    this.#world = world;
    this.#host = host;
    this.id = world.nextId();
    this.startedAs = startedAs;
    this.isIncoming = startedAs === "standby";
    if (startedAs === "primary") {
      this.#boot();
    }
  }

  /** Whether what it says now is heard. */
  get isSeen(): boolean {
    return this.isAlive && this.isRunning && (this.mode === "open" || this.#isLeased);
  }

  get #isLeased(): boolean {
    return this.mode === "leased" && this.#world.clock.nowMs < this.leasedUntilMs;
  }

  get head(): History | undefined {
    return this.ram[0];
  }

  /** From the disk alone. */
  #boot(): void {
    const { disk } = this.#host;
    this.ram.fill(undefined);
    this.ram[0] = addHistory(disk.cells[0], "boot");
    this.ram.forEach((_, page) => this.dirty.add(page));
  }

  stop(): void {
    this.isRunning = false;
    this.#cancel();
  }

  resume(): void {
    if (!this.isAlive || this.isIncoming || this.isRunning) {
      return;
    }
    this.isRunning = true;
    this.#late.splice(0).forEach((then) => {
      then();
    });
    this.#work();
    this.#tick();
  }

  /** Its engine is gone; `answers` are those of writes that were under way. */
  loseWatcher(answers: readonly (() => void)[], waitMs: number): void {
    this.watcher = undefined;
    if (this.mode === "leased") {
      this.#writesWaitUntilMs = this.#world.clock.nowMs + waitMs;
    }
    answers.forEach((answer) => {
      this.#afterReconnect(answer);
    });
  }

  /** A standby of a session without memory is switched on. */
  bootHere(): void {
    this.isIncoming = false;
    this.#boot();
  }

  #afterReconnect(then: () => void): void {
    this.#world.clock.after(Math.max(0, this.#writesWaitUntilMs - this.#world.clock.nowMs), () => {
      this.#answered(then);
    });
  }

  #answered(then: () => void): void {
    if (this.isRunning) {
      then();
    } else if (this.isAlive) {
      this.#late.push(then);
    }
  }

  #whenWritten(then: () => void): void {
    if (this.watcher?.whenAcknowledged !== undefined) {
      this.watcher.whenAcknowledged(() => {
        this.#answered(then);
      });
    } else if (this.watcher === undefined && this.#world.clock.nowMs < this.#writesWaitUntilMs) {
      this.#afterReconnect(then);
    } else {
      then();
    }
  }

  kill(): void {
    this.isAlive = false;
    this.isRunning = false;
    this.watcher = undefined;
    this.#cancel();
  }

  /** The state of an epoch has been loaded. */
  load(device: History | undefined): void {
    this.isIncoming = false;
    const { disk } = this.#host;
    this.#world.checks.expect(device === this.head, "the device state and the memory of a takeover are of two epochs");
    this.#world.checks.expect(isRamWhole(this.ram), "a takeover starts from memory that was never whole");
    this.#world.checks.expect(isDiskWhole(disk.cells), "a takeover starts from a disk that was never whole");
    this.#world.checks.expect(
      disk.cells[0] === this.head?.lastRequest,
      "the disk and the memory of a takeover are of two epochs",
    );
  }

  receive(request: number): void {
    if (this.isAlive && !this.isIncoming && this.#inputs.length < 16) {
      this.#inputs.push(request);
      this.#work();
    }
  }

  #work(): void {
    if (!this.isRunning || this.#working !== undefined || this.#inputs.length === 0) {
      return;
    }
    const ms = 0.3 + this.#host.diskDelayMs();
    this.#working = this.#world.clock.after(ms, () => {
      this.#working = undefined;
      const request = this.#inputs.shift();
      if (request !== undefined) {
        this.#answer(request);
      }
      this.#work();
    });
  }

  #answer(request: number): void {
    const known = this.head?.request ?? 0;
    if (request <= known) {
      const entry = findRequest(this.head, request);
      if (entry !== undefined) {
        // Not sooner than the first time: its write may still be under way.
        this.#whenWritten(() => {
          this.#emit({ entry, reply: true });
        });
      }
      return;
    }
    if (request === known + 1) {
      const entry = this.#live("request");
      this.#write(0, entry);
      this.#write(blockOf(entry), entry);
      this.#whenWritten(() => {
        this.#emit({ entry, reply: true });
      });
    }
  }

  #tick(): void {
    this.#ticking = this.#world.clock.after(20 + this.#world.random.below(130), () => {
      const entry = this.#live("tick");
      if (this.#world.random.chance(0.3)) {
        this.#emit({ entry, reply: false });
      }
      this.#tick();
    });
  }

  #live(kind: "request" | "tick"): History {
    const entry = addHistory(this.head, kind);
    this.ram[0] = entry;
    this.ram[pageOf(entry)] = entry;
    this.dirty.add(0);
    this.dirty.add(pageOf(entry));
    return entry;
  }

  #write(block: number, entry: History): void {
    this.#host.disk.write(block, entry, true);
    this.watcher?.onWrite(block);
  }

  #emit(packet: Packet): void {
    if (this.#isLeased && this.ringHead === this.ringTail) {
      this.#world.expose(this.#host, packet);
      return;
    }
    switch (this.mode) {
      case "open":
        this.#world.expose(this.#host, packet);
        return;
      case "leased":
      case "held":
        this.held.push(packet);
        this.ringHead += 1;
        this.watcher?.onOutput();
        return;
      case "closed":
        return;
    }
  }

  releaseThrough(position: number): void {
    while (this.ringTail < position) {
      const packet = this.held.shift();
      this.ringTail += 1;
      if (packet !== undefined) {
        this.#world.expose(this.#host, packet);
      }
    }
  }

  open(): void {
    this.releaseThrough(this.ringHead);
    this.mode = "open";
  }

  lease(untilMs: number): void {
    this.mode = "leased";
    this.leasedUntilMs = untilMs;
    if (this.#isLeased) {
      this.releaseThrough(this.ringHead);
    }
  }

  hold(): void {
    this.mode = this.mode === "closed" ? "closed" : "held";
  }

  discard(): void {
    this.mode = "closed";
    this.held.length = 0;
    this.ringTail = this.ringHead;
  }

  #cancel(): void {
    for (const planned of [this.#working, this.#ticking]) {
      if (planned !== undefined) {
        planned.isCancelled = true;
      }
    }
    this.#working = undefined;
    this.#ticking = undefined;
  }
}
