/**
 * The data half of an engine: the primary's captures and what it sends (engine/replication.ts), the standby's reception
 * (engine/reception.ts), on simulated guests. What is dirty, lacking and staged follows the same rules as there.
 */
import { type SyncBasis } from "../../src/protocol/messages.ts";
import { type Planned } from "./clock.ts";
import { type SimGuest } from "./guest.ts";
import { type Cell, DISK_BLOCKS, type History, RAM_PAGES } from "./history.ts";
import { type SimHost } from "./host.ts";
import { type Data, type Endpoint } from "./network.ts";
import { type World } from "./world.ts";

const EPOCHS_IN_FLIGHT = 3;
const MIN_INTERVAL_MS = 5;
const MAX_INTERVAL_MS = 300;

type Captured = {
  readonly epoch: number;
  readonly position: number;
  readonly pages: readonly number[];
  readonly cells: readonly (readonly [number, Cell])[];
  readonly device: History | undefined;
  readonly writes: number;
};

export type ReplicationOptions = {
  readonly world: World;
  readonly host: SimHost;
  readonly guest: SimGuest;
  readonly session: string;
  readonly endpoint: Endpoint;
  /** Pages and blocks that the standby lacks; outlive the session. */
  readonly lackingPages: Set<number>;
  readonly lackingBlocks: Set<number>;
  /** Runs `work` unless the engine is dead, and not before it thaws. */
  readonly enter: (work: () => void) => void;
  readonly onCopied: () => void;
  readonly onCaptured: (epoch: number, final: boolean) => void;
};

export class SimReplication {
  readonly session: string;
  readonly #options: ReplicationOptions;
  readonly #inFlight: Captured[] = [];
  /** Blocks written under each epoch that is not acknowledged. */
  readonly #written = new Map<number, Set<number>>();
  #endpoint: Endpoint;
  /** Sent and not acknowledged, in the order in which it was sent. */
  #unacknowledged: Data[] = [];
  #epoch = 0;
  #isRunningEpochs = false;
  #isCapturing = false;
  #isEnded = false;
  #finalWanted = false;
  #isStoppedForGood = false;
  #writes = 0;
  #capturedAtMs = 0;
  #hasOutput = false;
  #planned: Planned | undefined;
  /** HighAvailability: the guest's writes wait for the standby. */
  #isSynchronous = false;
  readonly #answers: { readonly epoch: number; readonly answer: () => void }[] = [];

  constructor(options: ReplicationOptions) {
    this.#options = options;
    this.#endpoint = options.endpoint;
    this.session = options.session;
  }

  copy(ram: SyncBasis, disks: SyncBasis): void {
    const { guest, lackingBlocks, lackingPages } = this.#options;
    guest.watcher = {
      onWrite: (block) => {
        this.#whenWritten(block);
      },
      onOutput: () => {
        this.#hasOutput = true;
        this.#schedule();
      },
    };
    if (ram.tag === "full" || ram.tag === "hashes") {
      guest.dirty.clear();
      fill(lackingPages, RAM_PAGES);
    }
    if (disks.tag !== "delta") {
      fill(lackingBlocks, DISK_BLOCKS);
    }
    this.#sendRound(1 + this.#options.world.random.below(3), ram.tag !== "firmware");
  }

  /** HighAvailability: memory too, the writes going on as before. */
  copyMemory(): void {
    const { guest, lackingPages, world } = this.#options;
    guest.dirty.clear();
    fill(lackingPages, RAM_PAGES);
    this.#sendRound(1 + world.random.below(3), true);
  }

  /** Sends a part of what lacks, while the guest runs; the last round leaves the rest to the first epoch. */
  #sendRound(left: number, withMemory: boolean): void {
    const { world, host, guest, lackingBlocks, lackingPages } = this.#options;
    this.#later(2 + world.random.below(60), () => {
      if (this.#isEnded) {
        return;
      }
      if (withMemory) {
        this.#scan();
        const pages = [...lackingPages].slice(0, 4);
        pages.forEach((page) => lackingPages.delete(page));
        this.#send({ tag: "pages", epoch: 0, cells: pages.map((page) => [page, guest.ram[page]] as const) });
      }
      for (const block of [...lackingBlocks].slice(0, left === 1 ? DISK_BLOCKS : 2)) {
        lackingBlocks.delete(block);
        this.#note(0, block);
        this.#send({ tag: "diskWrite", epoch: 0, block, cell: host.disk.cells[block] });
      }
      if (left > 1) {
        this.#sendRound(left - 1, withMemory);
      } else {
        this.#options.onCopied();
      }
    });
  }

  /** From now on the guest's writes wait for the standby. */
  startWrites(first: number): void {
    const { guest } = this.#options;
    this.#epoch = first;
    this.#isSynchronous = true;
    guest.watcher = {
      onWrite: (block) => {
        this.#whenWritten(block);
      },
      onOutput: () => {
        this.#hasOutput = true;
        this.#schedule();
      },
      whenAcknowledged: (then) => {
        if (this.#isSynchronous && !this.#isEnded) {
          this.#answers.push({ epoch: this.#epoch, answer: then });
          this.#endBatch();
        } else {
          then();
        }
      },
    };
    this.#endBatch();
  }

  #endBatch(): void {
    const { world, host } = this.#options;
    const epoch = this.#epoch;
    const writes = this.#writes;
    this.#epoch += 1;
    this.#writes = 0;
    world.checks.noteCapture({ session: this.session, epoch, ram: [], disk: host.disk.cells });
    this.#send({ tag: "epochEnd", epoch, device: undefined, pages: 0, writes });
    this.#options.onCaptured(epoch, false);
  }

  #answerWrites(throughEpoch: number): void {
    for (let [first] = this.#answers; first !== undefined && first.epoch <= throughEpoch; [first] = this.#answers) {
      this.#answers.shift();
      first.answer();
    }
  }

  /** The process dies: nobody answers these any more. */
  takeAnswers(): readonly (() => void)[] {
    return this.#answers.splice(0).map(({ answer }) => answer);
  }

  startEpochs(first: number): void {
    if (this.#isSynchronous) {
      this.#options.guest.mode = "held";
      this.#isSynchronous = false;
      this.#answerWrites(Infinity);
    }
    this.#epoch = first;
    this.#isRunningEpochs = true;
    this.#capture();
  }

  captureFinal(): void {
    this.#finalWanted = true;
    this.#schedule();
  }

  #whenWritten(block: number): void {
    if (!this.#isEnded) {
      this.#note(this.#epoch, block);
      this.#writes += this.#epoch > 0 ? 1 : 0;
      const cell = this.#options.host.disk.cells[block];
      this.#send({ tag: "diskWrite", epoch: this.#epoch, block, cell });
    }
  }

  #note(epoch: number, block: number): void {
    const blocks = this.#written.get(epoch) ?? new Set<number>();
    this.#written.set(epoch, blocks.add(block));
  }

  #scan(): void {
    const { guest, lackingPages } = this.#options;
    guest.dirty.forEach((page) => lackingPages.add(page));
    guest.dirty.clear();
  }

  #schedule(): void {
    if (this.#isEnded || !this.#isRunningEpochs || this.#isCapturing || this.#isStoppedForGood) {
      return;
    }
    if (this.#inFlight.length >= EPOCHS_IN_FLIGHT && !this.#finalWanted) {
      return;
    }
    const { world } = this.#options;
    const sinceMs = world.clock.nowMs - this.#capturedAtMs;
    const intervalMs = this.#finalWanted ? 0 : this.#hasOutput ? MIN_INTERVAL_MS : MAX_INTERVAL_MS;
    if (this.#planned !== undefined) {
      this.#planned.isCancelled = true;
    }
    this.#planned = this.#later(Math.max(0, intervalMs - sinceMs), () => {
      this.#capture();
    });
  }

  /** The guest stops, is copied out, and goes on; shipping begins when it runs again. */
  #capture(): void {
    const { world, guest } = this.#options;
    if (this.#isEnded || this.#isCapturing) {
      return;
    }
    this.#isCapturing = true;
    const final = this.#finalWanted;
    this.#isStoppedForGood ||= final;
    guest.stop();
    this.#later(0.3 + world.random.fraction() * 2, () => {
      const captured = this.#copyOut();
      this.#later(0.2 + world.random.fraction() * 3, () => {
        this.#isCapturing = false;
        if (!final) {
          guest.resume();
        }
        if (this.#isEnded) {
          captured.pages.forEach((page) => this.#options.lackingPages.add(page));
          return;
        }
        this.#ship(captured);
        this.#options.onCaptured(captured.epoch, final);
        this.#schedule();
      });
    });
  }

  #copyOut(): Captured {
    const { guest, lackingPages, world, host } = this.#options;
    if (guest.mode !== "held" && !this.#isEnded) {
      guest.mode = "held";
    }
    this.#scan();
    const pages = [...lackingPages];
    lackingPages.clear();
    const epoch = this.#epoch;
    this.#epoch += 1;
    this.#capturedAtMs = world.clock.nowMs;
    this.#hasOutput = false;
    const writes = this.#writes;
    this.#writes = 0;
    world.checks.noteCapture({ session: this.session, epoch, ram: guest.ram, disk: host.disk.cells });
    const cells = pages.map((page) => [page, guest.ram[page]] as const);
    return { epoch, position: guest.ringHead, pages, cells, device: guest.head, writes };
  }

  #ship(captured: Captured): void {
    const { epoch, cells, device, writes, pages } = captured;
    this.#inFlight.push(captured);
    this.#send({ tag: "pages", epoch, cells });
    this.#send({ tag: "epochEnd", epoch, device, pages: pages.length, writes });
  }

  release(throughEpoch: number): void {
    const { guest, world } = this.#options;
    world.checks.noteRelease(this.session, throughEpoch);
    while ((this.#inFlight[0]?.epoch ?? Infinity) <= throughEpoch) {
      const last = this.#inFlight.shift();
      guest.releaseThrough(last?.position ?? 0);
    }
    this.#unacknowledged = this.#unacknowledged.filter(({ epoch }) => epoch > throughEpoch);
    this.#acknowledge(throughEpoch);
    this.#answerWrites(throughEpoch);
    this.#schedule();
  }

  #acknowledge(throughEpoch: number): void {
    for (const epoch of [...this.#written.keys()]) {
      if (epoch <= throughEpoch) {
        this.#written.delete(epoch);
      }
    }
  }

  /** What was not acknowledged through `acked` is lacking at the standby. */
  end(acked: number): void {
    if (this.#isEnded) {
      return;
    }
    this.#isEnded = true;
    const { guest, lackingPages, lackingBlocks } = this.#options;
    for (const { epoch, pages } of this.#inFlight) {
      if (epoch > acked) {
        pages.forEach((page) => lackingPages.add(page));
      }
    }
    this.#acknowledge(acked);
    for (const blocks of this.#written.values()) {
      blocks.forEach((block) => lackingBlocks.add(block));
    }
    guest.watcher = { onWrite: (block) => lackingBlocks.add(block), onOutput: () => undefined };
    this.#answerWrites(Infinity);
  }

  #send(data: Data): void {
    if (this.#isEnded) {
      return;
    }
    if (data.epoch > 0) {
      this.#unacknowledged.push(data);
    }
    this.#endpoint.send({ tag: "data", data }, false);
  }

  /** On another link, for one that is lost. */
  resume(endpoint: Endpoint, from: number): void {
    this.#endpoint = endpoint;
    for (const data of this.#unacknowledged.filter(({ epoch }) => epoch >= from)) {
      endpoint.send({ tag: "data", data }, false);
    }
  }

  #later(delayMs: number, work: () => void): Planned {
    const planned = this.#options.world.clock.after(delayMs, () => {
      this.#options.enter(() => {
        if (!planned.isCancelled && this.#options.guest.isAlive) {
          work();
        }
      });
    });
    return planned;
  }
}

type Staged = { pages: (readonly [number, Cell])[]; writes: (readonly [number, Cell])[]; device: History | undefined };

export type ReceptionOptions = {
  readonly world: World;
  readonly host: SimHost;
  readonly guest: SimGuest;
  readonly session: string;
  readonly isWithoutMemory: boolean;
  readonly enter: (work: () => void) => void;
  readonly onEpochHeld: (epoch: number) => void;
  readonly onFailed: (reason: string) => void;
};

export class SimReception {
  readonly session: string;
  readonly #options: ReceptionOptions;
  readonly #staged = new Map<number, Staged>();
  #committed = 0;
  #isEnded = false;
  device: History | undefined;

  /** The guest can be booted from what is held, not go on. */
  get isBootOnly(): boolean {
    return this.#options.isWithoutMemory && this.device === undefined;
  }

  constructor(options: ReceptionOptions) {
    this.#options = options;
    this.session = options.session;
  }

  take(data: Data): void {
    if (this.#isEnded) {
      return;
    }
    switch (data.tag) {
      case "pages":
        if (data.epoch === 0) {
          this.#applyPages(data.cells);
        } else {
          this.#stageOf(data.epoch).pages.push(...data.cells);
        }
        return;
      case "diskWrite":
        if (data.epoch === 0) {
          this.#options.host.writeLater(data.block, data.cell);
        } else {
          this.#stageOf(data.epoch).writes.push([data.block, data.cell]);
        }
        return;
      case "epochEnd": {
        const staged = this.#stageOf(data.epoch);
        staged.device = data.device;
        const isWhole = staged.pages.length === data.pages && staged.writes.length === data.writes;
        if (!isWhole || (this.#committed > 0 && data.epoch !== this.#committed + 1)) {
          this.#options.world.checks.fail(`epoch ${data.epoch} of ${this.session} arrived in part`);
        }
        this.#options.onEpochHeld(data.epoch);
        return;
      }
    }
  }

  #stageOf(epoch: number): Staged {
    const staged = this.#staged.get(epoch) ?? { pages: [], writes: [], device: undefined };
    this.#staged.set(epoch, staged);
    return staged;
  }

  commit(epoch: number): void {
    const staged = this.#staged.get(epoch);
    if (staged === undefined || this.#isEnded) {
      return;
    }
    const { host, guest, world } = this.#options;
    this.#staged.delete(epoch);
    this.#applyPages(staged.pages);
    staged.writes.forEach(([block, cell]) => {
      host.writeLater(block, cell);
    });
    this.device = staged.device ?? this.device;
    this.#committed = epoch;
    const ram = this.isBootOnly ? [] : guest.ram;
    world.checks.noteCommit({ session: this.session, epoch, ram, disk: host.diskToBe() });
  }

  discardStaged(): void {
    this.#staged.clear();
  }

  fail(reason: string): void {
    if (!this.#isEnded) {
      this.end();
      this.#options.onFailed(reason);
    }
  }

  end(): void {
    this.#isEnded = true;
    this.#staged.clear();
  }

  #applyPages(cells: readonly (readonly [number, Cell])[]): void {
    for (const [page, cell] of cells) {
      this.#options.guest.ram[page] = cell;
    }
  }
}

function fill(set: Set<number>, count: number): void {
  for (let index = 0; index < count; index += 1) {
    set.add(index);
  }
}
