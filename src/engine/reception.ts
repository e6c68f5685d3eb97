/**
 * The standby's end of a replication session: takes the first copy as it comes, then whole epochs.
 *
 * What belongs to an epoch is kept until `epochEnd` proves that all of it is here; then the epoch is held, and applied when the
 * machine says so: pages into the waiting QEMU, disk writes onto the image, the device state kept for a takeover. What has
 * arrived of an epoch that is not whole can be thrown away at any time.
 */
import { zstdDecompressSync } from "node:zlib";
import { encodeDiskHashes, encodeDiskHashesEnd, type Frame } from "../protocol/frames.ts";
import { PageRuns } from "../memory/page-runs.ts";
import { type GuestMemory } from "../memory/guest-memory.ts";
import { type FrameConnection } from "../net/frame-connection.ts";
import { GRANULE_BYTES } from "./dirty-map.ts";
import { hashGranules } from "./primary-disks.ts";
import { DeviceStates } from "./device-states.ts";
import { type StandbyDisk } from "./standby-disk.ts";

type PagesFrame = Extract<Frame, { tag: "pages" | "zeroPages" | "pageDeltas" }>;
type DiskFrame = Extract<Frame, { tag: "diskWrite" | "diskZero" }>;
type Staged = {
  pages: PagesFrame[];
  disk: DiskFrame[];
  deviceState: Uint8Array | undefined;
  bytes: number;
  pageCount: number;
  deviceStateBytes: number;
};

export type ReceptionEvents = {
  readonly onEpochHeld: (epoch: number) => void;
  readonly onFailed: (why: string) => void;
  /** Too much waits for the disks: stop reading, or go on. */
  readonly onPressure: (paused: boolean) => void;
};

const DISK_WAITING_BYTES_MAX = 64 * 1024 * 1024;
const HASH_FRAME_GRANULES = 4096;

export class Reception {
  readonly session: string;
  readonly #memory: GuestMemory;
  readonly #disks: readonly StandbyDisk[];
  readonly #connection: FrameConnection<Frame>;
  readonly #events: ReceptionEvents;
  /** Of HighAvailability: an epoch may be writes to disks alone. */
  readonly #isWithoutMemory: boolean;
  readonly #staged = new Map<number, Staged>();
  readonly #runs = new PageRuns();
  readonly #states = new DeviceStates();
  #deviceState: Uint8Array | undefined;
  #committed = 0;
  /** Resolves when the disks of the first copy are written. */
  #copied: Promise<unknown> | undefined;
  #ended = false;
  #isUnderPressure = false;

  constructor(options: {
    readonly session: string;
    readonly memory: GuestMemory;
    readonly disks: readonly StandbyDisk[];
    readonly connection: FrameConnection<Frame>;
    readonly events: ReceptionEvents;
    readonly isWithoutMemory: boolean;
  }) {
    this.session = options.session;
    this.#memory = options.memory;
    this.#disks = options.disks;
    this.#connection = options.connection;
    this.#events = options.events;
    this.#isWithoutMemory = options.isWithoutMemory;
    for (const disk of this.#disks) {
      disk.onFailed = (failure) => {
        this.#fail(failure);
      };
    }
  }

  /** Whether what is held is the disks alone: the guest can be booted from them, not go on. */
  get isBootOnly(): boolean {
    return this.#isWithoutMemory && this.#deviceState === undefined;
  }

  /** The device state of the last committed epoch. */
  get deviceState(): Buffer | undefined {
    const state = this.#deviceState;
    return state === undefined ? undefined : Buffer.from(state.buffer, state.byteOffset, state.byteLength);
  }

  take(frame: Frame): void {
    if (this.#ended) {
      return;
    }
    try {
      this.#take(frame);
    } catch (error) {
      this.#fail(error);
    }
  }

  #take(frame: Frame): void {
    switch (frame.tag) {
      case "pages":
      case "zeroPages":
        if (frame.epoch === 0) {
          this.#applyPages(frame);
        } else {
          this.#stagePages(frame, sum(frame.counts));
        }
        return;
      case "pageDeltas":
        this.#stagePages(frame, frame.pages.length);
        return;
      case "diskWrite":
      case "diskZero":
        if (frame.epoch === 0) {
          this.#applyDisk(frame);
        } else {
          const staged = this.#stageOf(frame.epoch);
          staged.disk.push(frame);
          staged.bytes += frame.payloadBytes;
        }
        return;
      case "deviceState":
        this.#stageState(frame, this.#states.take(frame.rawBytes, frame.data));
        return;
      case "stateDelta":
        this.#stageState(frame, this.#states.derive(frame));
        return;
      case "epochEnd":
        this.#whenEpochEnds(frame);
        return;
      case "diskHashesWanted":
        void this.#sendHashes(frame.disk).catch((error: unknown) => {
          this.#fail(this.#disks[frame.disk]?.readFailed(error) ?? error);
        });
        return;
      default:
        return;
    }
  }

  #stagePages(frame: PagesFrame, pageCount: number): void {
    const staged = this.#stageOf(frame.epoch);
    staged.pages.push(frame);
    staged.bytes += frame.payloadBytes;
    staged.pageCount += pageCount;
  }

  #stageState(frame: Extract<Frame, { tag: "deviceState" | "stateDelta" }>, state: Uint8Array): void {
    const staged = this.#stageOf(frame.epoch);
    staged.deviceState = state;
    staged.deviceStateBytes = frame.rawBytes;
    staged.bytes += frame.payloadBytes;
  }

  #stageOf(epoch: number): Staged {
    let staged = this.#staged.get(epoch);
    if (staged === undefined) {
      staged = { pages: [], disk: [], deviceState: undefined, bytes: 0, pageCount: 0, deviceStateBytes: 0 };
      this.#staged.set(epoch, staged);
    }
    return staged;
  }

  #whenEpochEnds(end: Extract<Frame, { tag: "epochEnd" }>): void {
    const staged = this.#stageOf(end.epoch);
    const isWhole =
      staged.pageCount === end.pageCount &&
      staged.disk.length === end.diskRecords &&
      staged.bytes === end.bytes &&
      staged.deviceStateBytes === end.deviceStateBytes &&
      (staged.deviceState !== undefined || this.isBootOnly);
    if (!isWhole || (this.#committed > 0 && end.epoch !== this.#committed + 1)) {
      throw new Error(`epoch ${end.epoch} is not whole: both sides must run the same release`);
    }
    if (this.#committed > 0) {
      this.#events.onEpochHeld(end.epoch);
      return;
    }
    // The pair counts as protected from the first epoch on: what was copied has to be on the disks, not on its way to them.
    this.#copied ??= Promise.all(this.#disks.map((disk) => disk.settle()));
    this.#copied.then(
      () => {
        if (!this.#ended) {
          this.#events.onEpochHeld(end.epoch);
        }
      },
      (error: unknown) => {
        this.#fail(error);
      },
    );
  }

  /** Applies an epoch that is held. Pages at once; disk writes are given to the disks, which keep their order. */
  commit(epoch: number): void {
    const staged = this.#staged.get(epoch);
    if (staged === undefined || this.#ended) {
      return;
    }
    this.#staged.delete(epoch);
    try {
      staged.pages.forEach((frame) => {
        this.#applyPages(frame);
      });
      staged.disk.forEach((frame) => {
        this.#applyDisk(frame);
      });
      if (staged.deviceState !== undefined) {
        this.#states.giveBack(this.#deviceState);
        this.#deviceState = staged.deviceState;
      }
      this.#committed = epoch;
    } catch (error) {
      this.#fail(error);
    }
  }

  /** Throws away what is not whole. */
  discardStaged(): void {
    this.#staged.clear();
    this.#states.goBackTo(this.#deviceState);
  }

  end(): void {
    this.#ended = true;
    this.#staged.clear();
  }

  #applyPages(frame: PagesFrame): void {
    if (frame.tag === "pageDeltas") {
      this.#memory.writeBlocks(frame.pages, frame.masks, frame.data);
      return;
    }
    this.#runs.clear();
    for (const [index, start] of frame.starts.entries()) {
      this.#runs.add(start, frame.counts[index] ?? 0);
    }
    if (frame.tag === "zeroPages") {
      this.#memory.applyZeros(this.#runs);
      return;
    }
    const data = frame.compressed ? zstdDecompressSync(frame.data, { maxOutputLength: frame.rawBytes }) : frame.data;
    this.#memory.write(this.#runs, data);
  }

  #applyDisk(frame: DiskFrame): void {
    const disk = this.#disks[frame.disk];
    if (disk === undefined) {
      throw new Error(`a write to disk ${frame.disk}, which this side does not have`);
    }
    if (disk.failure !== undefined) {
      throw disk.failure; // In a session before this one.
    }
    if (frame.tag === "diskZero") {
      disk.zero(frame.offset, frame.bytes);
    } else {
      disk.write(frame.offset, Buffer.from(frame.data.buffer, frame.data.byteOffset, frame.data.byteLength));
    }
    this.#relieve(disk);
  }

  #relieve(disk: StandbyDisk): void {
    if (this.#isUnderPressure || disk.waitingBytes < DISK_WAITING_BYTES_MAX) {
      return;
    }
    this.#isUnderPressure = true;
    this.#events.onPressure(true);
    disk.settle().then(
      () => {
        this.#isUnderPressure = false;
        this.#events.onPressure(false);
      },
      (error: unknown) => {
        this.#fail(error);
      },
    );
  }

  /**
   * Hashes of a whole disk, in the order of its granules, as fast as the primary takes them; of what an earlier session wrote, too:
   * done later it would undo what counts as equal by then.
   */
  async #sendHashes(disk: number): Promise<void> {
    const target = this.#disks[disk];
    if (target === undefined) {
      throw new Error(`hashes wanted of disk ${disk}, which this side does not have`);
    }
    await target.settle();
    const count = Math.ceil(target.bytes / GRANULE_BYTES);
    for (let first = 0; first < count && !this.#ended; first += HASH_FRAME_GRANULES) {
      const granules = Math.min(HASH_FRAME_GRANULES, count - first);
      this.#connection.send(encodeDiskHashes(disk, first, await hashRun(target, first, granules)));
      await this.#connection.drained();
    }
    this.#connection.send(encodeDiskHashesEnd(disk));
  }

  #fail(error: unknown): void {
    if (!this.#ended) {
      this.end();
      this.#events.onFailed(error instanceof Error ? error.message : String(error));
    }
  }
}

async function hashRun(disk: StandbyDisk, first: number, granules: number): Promise<Buffer> {
  const hashes = Buffer.alloc(granules * 16);
  for await (const { granule, hash } of hashGranules(disk, { first, count: granules })) {
    hash.copy(hashes, (granule - first) * 16);
  }
  return hashes;
}

function sum(counts: Uint32Array): number {
  let total = 0;
  for (const count of counts) {
    total += count;
  }
  return total;
}
