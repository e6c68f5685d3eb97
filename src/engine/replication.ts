/**
 * The primary's end of a replication session: first copy, then epochs, over one connection.
 *
 * An epoch is captured while the guest stands still (memory copied out, output position and disk boundary marked) and shipped
 * while it runs on. Up to EPOCHS_IN_FLIGHT of them may wait for their acknowledgement. The stream is ordered: disk writes go
 * out as they happen, labelled with the epoch the guest was in, pages and device state after the stop, `epochEnd` last.
 *
 * In a session of HighAvailability the guest is not stopped and no memory goes out but what a boot needs. An epoch there is what it
 * wrote to its disks in one turn of the event loop; each write is answered when its epoch is acknowledged. `copyMemory` and
 * `startEpochs` after it make a session of checkpoints of it.
 *
 * Contract with the protocol machine: `copied` once the copy has caught up, `captured` for each epoch in order, nothing after
 * `end`. Pages that were scanned and not acknowledged go back to `lacking`, so a later session may start from them. Frames that
 * were not acknowledged are kept, at most of EPOCHS_IN_FLIGHT epochs and the one the guest is in, to be sent again on another link.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { constants, zstdCompress } from "node:zlib";
import { countSetBits } from "../lib/bits.ts";
import { type CheckpointContract } from "../protocol/assignment.ts";
import {
  encodeDeviceState,
  encodeDiskWrite,
  encodeDiskZero,
  encodeDiskHashesWanted,
  encodeEpochEnd,
  encodePageDeltas,
  encodePages,
  encodeStateDelta,
  encodeZeroPages,
  type Frame,
  type FrameParts,
  PAGES_PER_FRAME_MAX,
  payloadBytesOf,
  WIRE_BLOCK_BYTES,
} from "../protocol/frames.ts";
import { type SyncBasis } from "../protocol/messages.ts";
import { PageRuns, type PageSet, subtract, union } from "../memory/page-runs.ts";
import { PreciseTimer } from "../memory/precise-timer.ts";
import { PAGE_BYTES } from "../memory/ram-blocks.ts";
import { type FrameConnection } from "../net/frame-connection.ts";
import { monotonicMs } from "../telemetry/clock.ts";
import { type Log } from "../telemetry/log.ts";
import { observeCompressed, observeSent, planPages, startCompression } from "./compression.ts";
import { GRANULE_BYTES } from "./dirty-map.ts";
import { type Figures } from "./figures.ts";
import { type Guest } from "./guest.ts";
import {
  freshLinkPace,
  freshLinkUse,
  isHeldToShare,
  isWithinShare,
  noteSent,
  noteUse,
  pieceBytesOf,
  planPiece,
} from "./link-pace.ts";
import { observeEpoch, type PacingState, planCapture, startPacing } from "./pacing.ts";
import { readLastSection } from "../qemu/device-state.ts";
import { isBootBlock } from "../qemu/standby.ts";
import { type DiskStream, type PrimaryDisks } from "./primary-disks.ts";
import { RamCopy, splitZeroPages } from "./ram-copy.ts";
import { freshPace, notePiece } from "./resync-pace.ts";
import { DeltaBuffer, SentPages, SentState } from "./sent-pages.ts";

const EPOCHS_IN_FLIGHT = 3;
/** Whoever waits for the share looks so often whether it has to. */
const SHARE_LOOK_MS = 20;
/** Device state is 0.1 to 0.5 MiB; what is never touched of this costs nothing. */
const STATE_BYTES_MAX = 16 * 1024 * 1024;
const PAGES_BYTES_FIRST = 4 * 1024 * 1024;
const CAPTURE_FAILURES_MAX = 3;
/** A guest that cannot be stopped for so long waits for a disk that hangs: it goes on where disks answer. */
const STOP_PATIENCE_MS = 5_000;
/** How long to wait for the end of a checkpoint of the session before. */
const BUSY_CHECKPOINT_MS = 2;
const DUE_NOW_MS = 0.05;
/** A guest that fell idle before its gap was over is checkpointed this much later at most. */
const BUSY_LOOK_MS = 0.5;
/** A guest with one client falls idle this soon after its reply. */
const LOOK_CLOSELY_MS = 0.5;
const CLOSE_LOOK_MS = 0.1;
const compressPages = promisify(zstdCompress);
/** The fastest level: what counts is that it is faster than the link. */
const COMPRESSION = { params: { [constants.ZSTD_c_compressionLevel]: 1 } };

type Epoch = {
  readonly epoch: number;
  readonly outputPosition: number;
  readonly outputSinceMs: number | undefined;
  readonly capturedAtMs: number;
  /** Pages of the epoch, for `lacking` when it is never acknowledged. */
  readonly runs: PageRuns;
  /** Its memory, as it was copied out. */
  readonly slot: Slot;
  /** Disk frames of this epoch and their payload bytes: all went out before the stop. */
  readonly diskRecords: number;
  readonly diskBytes: number;
};

/** Writes of the guest that wait for the standby. */
type Batch = {
  readonly epoch: number;
  readonly startedAtMs: number;
  readonly acknowledged: Promise<void>;
  readonly answer: () => void;
};

/** Memory of one epoch on its way; used again once it was acknowledged. */
type Slot = { pages: Buffer; readonly state: Buffer; readonly deltas: DeltaBuffer; readonly whole: PageRuns };

type ShipOrder = { readonly epoch: Epoch; readonly stateBytes: number };

type SentFrames = { readonly epoch: number; readonly parts: FrameParts };

/** How many frames of an epoch have gone out already, and since when. */
type Sent = { readonly startedMs: number; readonly sentCount: number };

export type ReplicationEvents = {
  readonly onCopied: () => void;
  readonly onCaptured: (epoch: number, final: boolean) => void;
  /** This session cannot go on; the guest can. */
  readonly onBroken: () => void;
  /** The guest cannot be checkpointed any more. */
  readonly onFailed: (why: string) => void;
  /**
   * Whether the guest has the devices it had when its QEMU was attached to. Asked when a checkpoint gives reason to; that one is not
   * shipped if it has others, for the standby could not load it.
   */
  readonly keepsDevices: () => Promise<boolean>;
};

export class Replication implements DiskStream {
  readonly session: string;
  readonly #guest: Guest;
  readonly #disks: PrimaryDisks;
  #connection: FrameConnection<Frame>;
  readonly #figures: Figures;
  readonly #events: ReplicationEvents;
  readonly #log: Log;
  readonly #lacking: PageSet;
  readonly #scanned = new PageRuns();
  readonly #merged = new PageRuns();
  readonly #slots: Slot[] = [];
  readonly #inFlight: Epoch[] = [];
  /** In the order in which they were sent. */
  #unacknowledged: SentFrames[] = [];
  readonly #sentPages = new SentPages();
  readonly #sentState = new SentState();
  #contract: CheckpointContract;
  #pacing: PacingState;
  /** 0 while bulk data goes out, then the epoch the guest is in. */
  #epoch = 0;
  #ended = false;
  #isCapturing = false;
  #isRunningEpochs = false;
  #finalWanted = false;
  #isStoppedForGood = false;
  #throttled = false;
  readonly #timer = new PreciseTimer(() => {
    this.#schedule();
  });
  #startedAtMs = 0;
  #resumedAtMs = 0;
  #outputSinceMs: number | undefined;
  #failures = 0;
  #epochRecords = 0;
  #epochBytes = 0;
  #compression = startCompression();
  /** Set while an epoch is compressed, or leaves in pieces: later ones queue behind it, for epochs leave in order. */
  #shipping: Promise<void> | undefined;
  /** Bytes a second on the links, together with whatever else goes to the standby; undefined: as much as they carry. */
  #linkShare: number | undefined;
  #linkPace = freshLinkPace;
  /** The same for the guest's disk writes alone. */
  #writePace = freshLinkPace;
  #linkUse = freshLinkUse;
  #ramCopy: RamCopy | undefined;
  /** Answers wait for the standby; see the head of this file. */
  #isSynchronous = false;
  /** Oldest first; the last one may still be open. */
  #batches: Batch[] = [];
  #openBatch: Batch | undefined;
  #copiesMemory = false;
  #hashesLeft = new Map<number, () => void>();
  #comparing: Promise<void> = Promise.resolve();
  #packetsBefore = 0;
  #pace = freshPace;
  #hasGuestWritten = false;
  #copiedBytes = 0;
  /** What tells that a device was plugged in, as of the last checkpoint. */
  #lastSection: number | undefined;
  #mappingsCount: number | undefined;
  /** Whether `lacking` may hold pages; what is added to it later is for the next session. */
  #isLacking = true;

  constructor(options: {
    readonly session: string;
    readonly guest: Guest;
    readonly disks: PrimaryDisks;
    readonly connection: FrameConnection<Frame>;
    readonly contract: CheckpointContract;
    readonly linkShare: number | undefined;
    readonly lacking: PageSet;
    readonly figures: Figures;
    readonly events: ReplicationEvents;
    readonly log: Log;
  }) {
    this.session = options.session;
    this.#guest = options.guest;
    this.#disks = options.disks;
    this.#connection = options.connection;
    this.#contract = options.contract;
    this.#linkShare = options.linkShare;
    this.#lacking = options.lacking;
    this.#figures = options.figures;
    this.#events = options.events;
    this.#log = options.log;
    this.#pacing = startPacing(options.contract);
  }

  // First copy.

  /** Copies memory and disks while the guest runs. */
  async copy(ram: SyncBasis, disks: SyncBasis): Promise<void> {
    const startedAtMs = monotonicMs();
    const basis = disks.tag === "delta" && !this.#disks.isKnown ? "hashes" : disks.tag;
    const mustCompare = this.#disks.beginSession(this, basis);
    if (ram.tag === "firmware") {
      this.#sendFirmware();
    } else if (ram.tag !== "delta") {
      this.#beginFullCopy();
    }
    const disksDone = this.#copyDisks(mustCompare).then(() => {
      disksAreCopied = true;
    });
    let disksAreCopied = false;
    const memoryDone = ram.tag === "firmware" ? undefined : this.#copyRam(() => disksAreCopied || this.#ended);
    await Promise.all([memoryDone, disksDone]);
    if (!this.#ended) {
      const seconds = Math.round(monotonicMs() - startedAtMs) / 1000;
      this.#log.info(
        { session: this.session, seconds, ram: ram.tag, disks: basis, mib: Math.round(this.#copiedBytes / 2 ** 20) },
        "copied what the standby lacked",
      );
      this.#events.onCopied();
    }
  }

  #copyRam(mayEnd: () => boolean): Promise<void> {
    this.#ramCopy = new RamCopy({
      memory: this.#guest.memory,
      stream: this,
      lacking: this.#lacking,
      runs: { scanned: this.#scanned, chunk: this.#merged },
    });
    return this.#ramCopy.run(mayEnd);
  }

  /** A QEMU that waits has none of it, and could not boot; a few MiB. */
  #sendFirmware(): void {
    const { memory } = this.#guest;
    for (const { firstPage, pageCount } of memory.blocks.filter(isBootBlock)) {
      const runs = new PageRuns(1);
      runs.add(firstPage, pageCount);
      const data = Buffer.allocUnsafeSlow(pageCount * PAGE_BYTES);
      memory.read(runs, data);
      splitZeroPages(runs, data, this);
    }
  }

  /** The guest's memory as well, while it runs and its writes go on as before; the epochs that follow are checkpoints. */
  async copyMemory(): Promise<void> {
    if (this.#copiesMemory) {
      return;
    }
    this.#copiesMemory = true;
    const startedAtMs = monotonicMs();
    this.#beginFullCopy();
    await this.#copyRam(() => true);
    this.#copiesMemory = false;
    if (!this.#ended) {
      this.#log.info(
        { session: this.session, ms: Math.round(monotonicMs() - startedAtMs) },
        "copied the guest's memory",
      );
      this.#endBatch(); // In the same turn as what comes of `copied`: no write comes between.
      this.#events.onCopied();
    }
  }

  /** Only memory the guest has ever touched is read and sent; the rest is told to be zero. */
  #beginFullCopy(): void {
    const { memory } = this.#guest;
    memory.startTracking();
    const all = new PageRuns();
    const populated = new PageRuns();
    const empty = new PageRuns();
    all.add(0, memory.pageCount);
    memory.listPopulated(populated);
    subtract(all, populated, empty);
    this.#lacking.clear();
    this.#lacking.add(populated);
    if (empty.length > 0) {
      this.sendZeroPages(empty.starts.subarray(0, empty.length), empty.counts.subarray(0, empty.length));
    }
  }

  async #copyDisks(mustCompare: boolean): Promise<void> {
    if (mustCompare) {
      await Promise.all(this.#disks.sizes.map((_, disk) => this.#compareDisk(disk)));
      await this.#comparing;
    }
    await this.#disks.copyLacking(this);
  }

  #compareDisk(disk: number): Promise<void> {
    return new Promise((resolve) => {
      this.#hashesLeft.set(disk, resolve);
      this.#connection.send(encodeDiskHashesWanted(disk, GRANULE_BYTES));
    });
  }

  /** Frames from the standby. */
  take(frame: Frame): void {
    if (frame.tag === "diskHashes") {
      const { disk, firstGranule, hashes } = frame;
      this.#comparing = this.#comparing.then(() =>
        this.#ended ? undefined : this.#disks.compare(disk, firstGranule, hashes),
      );
      this.#comparing.catch(() => undefined); // Told to whoever waits for all of them.
    } else if (frame.tag === "diskHashesEnd") {
      this.#hashesLeft.get(frame.disk)?.();
      this.#hashesLeft.delete(frame.disk);
    }
  }

  // The stream.

  /** While the guest is being stopped, which its writes have to end for, they wait for no share. */
  writeRoom(): Promise<void> | undefined {
    return this.#shareRoom(() => (this.#isCapturing ? 0 : this.#writePace.nextAtMs));
  }

  room(): Promise<void> | undefined {
    const waitMs = this.#pace.nextAtMs - monotonicMs();
    return waitMs > 0 && !this.#ended ? sleep(waitMs) : this.#shareRoom(() => this.#linkPace.nextAtMs);
  }

  #shareRoom(untilMs: () => number): Promise<void> | undefined {
    if (this.#mustWait(untilMs())) {
      return this.#awaitShare(untilMs);
    }
    return this.#connection.backlogBytes > 1024 * 1024 && !this.#ended ? this.#connection.drained() : undefined;
  }

  /** Whoever hands the guest over is not kept waiting: it stands still. */
  #mustWait(untilMs: number): boolean {
    return untilMs > monotonicMs() && !this.#ended && !this.#finalWanted;
  }

  /** Until the time that `untilMs` gives, which may change meanwhile. */
  async #awaitShare(untilMs: () => number): Promise<void> {
    while (this.#mustWait(untilMs())) {
      this.#noteUse(0, true);
      await sleep(Math.min(SHARE_LOOK_MS, untilMs() - monotonicMs()));
    }
  }

  /** What the standby lacks yet, as far as anybody knows. */
  get leftBytes(): number {
    return this.#lacking.size() * PAGE_BYTES + this.#disks.leftBytes;
  }

  #notePiece(bytes: number): void {
    const { resyncMiBPerSecond } = this.#contract;
    const bytesPerSecondMax = resyncMiBPerSecond === undefined ? undefined : resyncMiBPerSecond * 2 ** 20;
    const piece = { bytes, bytesPerSecondMax, hasGuestWritten: this.#hasGuestWritten };
    this.#pace = notePiece(this.#pace, piece, monotonicMs());
    this.#hasGuestWritten = false;
    this.#copiedBytes += bytes;
  }

  sendPages(starts: Uint32Array, counts: Uint32Array, data: Uint8Array): void {
    this.#notePiece(data.byteLength);
    this.#send(0, encodePages(0, { starts, counts }, data));
  }

  sendZeroPages(starts: Uint32Array, counts: Uint32Array): void {
    this.#send(0, encodeZeroPages(0, { starts, counts }));
  }

  sendDisk(disk: number, offset: number, data: Buffer): void {
    this.#notePiece(data.length);
    this.#sendDiskParts(encodeDiskWrite(0, disk, offset, data), 0);
  }

  sendDiskZero(disk: number, offset: number, bytes: number): void {
    this.#sendDiskParts(encodeDiskZero(0, disk, offset, bytes), 0);
  }

  sendDiskWrite(disk: number, offset: number, data: Buffer): void {
    this.#hasGuestWritten = true;
    this.#noteWrite(data.length);
    this.#sendDiskParts(encodeDiskWrite(this.#epoch, disk, offset, data), this.#epoch);
  }

  /** Writes may take the whole share, or half of it beside memory or copies: neither may keep the other from ever going on. */
  #noteWrite(bytes: number): void {
    const isBesideBulk = this.#epoch === 0 || this.#copiesMemory || this.#shipping !== undefined;
    const share = this.#linkShare === undefined || !isBesideBulk ? this.#linkShare : this.#linkShare / 2;
    this.#writePace = noteSent(this.#writePace, bytes, share, monotonicMs());
  }

  sendDiskWriteZero(disk: number, offset: number, bytes: number): void {
    this.#sendDiskParts(encodeDiskZero(this.#epoch, disk, offset, bytes), this.#epoch);
  }

  acknowledged(): Promise<void> | undefined {
    return this.#openBatch?.acknowledged;
  }

  #sendDiskParts(parts: FrameParts, epoch: number): void {
    if (this.#isSynchronous && epoch > 0 && this.#openBatch === undefined) {
      this.#beginBatch();
      queueMicrotask(() => {
        this.#endBatch();
      });
    }
    const bytes = payloadBytesOf(parts);
    if (epoch > 0) {
      this.#epochRecords += 1;
      this.#epochBytes += bytes;
    }
    this.#figures.diskBytes += bytes;
    this.#send(epoch, parts);
  }

  #send(epoch: number, parts: FrameParts, onSent?: () => void): void {
    if (this.#ended) {
      return;
    }
    if (epoch > 0) {
      this.#unacknowledged.push({ epoch, parts });
    }
    const bytes = payloadBytesOf(parts);
    this.#figures.sentBytes += bytes;
    this.#linkPace = noteSent(this.#linkPace, bytes, this.#linkShare, monotonicMs());
    this.#noteUse(bytes, false);
    this.#connection.send(parts, onSent);
  }

  /** The link is lost; the standby holds all before epoch `from`, and gets the rest on another one. */
  resume(connection: FrameConnection<Frame>, from: number): void {
    this.#connection = connection;
    for (const { parts } of this.#unacknowledged.filter(({ epoch }) => epoch >= from)) {
      this.#figures.sentBytes += payloadBytesOf(parts);
      connection.send(parts);
    }
    this.#log.info({ session: this.session, from }, "the session goes on over another link");
  }

  // Epochs.

  setContract(contract: CheckpointContract): void {
    this.#contract = contract;
  }

  setLinkShare(bytesPerSecond: number | undefined): void {
    this.#linkShare = bytesPerSecond;
    if (bytesPerSecond === undefined) {
      this.#linkPace = freshLinkPace;
      this.#writePace = freshLinkPace;
      this.#linkUse = freshLinkUse;
    }
    this.#schedule();
  }

  #noteUse(bytes: number, hasWaited: boolean): void {
    this.#linkUse = noteUse(this.#linkUse, { bytes, hasWaited }, this.#linkShare, monotonicMs());
  }

  /** It wants more of the links than it has, or did a moment ago. */
  get isHeldToShare(): boolean {
    return isHeldToShare(this.#linkUse, monotonicMs());
  }

  /** From epoch `first` on the guest's writes wait for the standby; that epoch says that all before them is there. */
  startWrites(first: number): void {
    this.#epoch = first;
    this.#disks.setEpoch(first);
    this.#isSynchronous = true;
    this.#beginBatch();
    this.#endBatch();
  }

  #beginBatch(): void {
    let answer = (): void => undefined;
    const acknowledged = new Promise<void>((resolve) => (answer = resolve));
    const batch = { epoch: this.#epoch, startedAtMs: monotonicMs(), acknowledged, answer };
    this.#openBatch = batch;
    this.#batches.push(batch);
  }

  #endBatch(): void {
    const batch = this.#openBatch;
    this.#openBatch = undefined;
    if (batch === undefined || this.#ended) {
      return;
    }
    const totals = { pageCount: 0, diskRecords: this.#epochRecords, bytes: this.#epochBytes, deviceStateBytes: 0 };
    this.#nextEpoch();
    this.#send(batch.epoch, encodeEpochEnd(batch.epoch, totals));
    this.#events.onCaptured(batch.epoch, false);
  }

  #nextEpoch(): void {
    this.#epoch += 1;
    this.#disks.setEpoch(this.#epoch);
    this.#epochRecords = 0;
    this.#epochBytes = 0;
  }

  /** The guest has its answers: to all that wait, or to those the standby has. */
  #answerWrites(throughEpoch: number): void {
    for (let [first] = this.#batches; first !== undefined && first.epoch <= throughEpoch; [first] = this.#batches) {
      this.#batches.shift();
      first.answer();
    }
  }

  /** Output is held from the stop of epoch `first` on; after `copyMemory` at once, so that writes need not wait any more. */
  startEpochs(first: number): void {
    if (this.#isSynchronous) {
      this.#guest.shim.gate.setMode("held");
      this.#isSynchronous = false;
      this.#answerWrites(Infinity);
    }
    this.#epoch = first;
    this.#disks.setEpoch(first);
    this.#isRunningEpochs = true;
    this.#resumedAtMs = monotonicMs();
    this.#guest.shim.gate.onOutput(() => {
      this.#outputSinceMs ??= monotonicMs();
      this.#schedule();
    });
    void this.#capture();
  }

  captureFinal(): void {
    this.#finalWanted = true;
    this.#schedule();
  }

  #schedule(): void {
    if (!this.#mayCapture()) {
      return; // The end of the capture, or the next acknowledgement, asks again.
    }
    const nowMs = monotonicMs();
    const outputSinceMs = this.#outputSinceMs;
    const isBusy = outputSinceMs !== undefined && this.#guest.isBusy();
    const since = { startedAtMs: this.#startedAtMs, resumedAtMs: this.#resumedAtMs, outputSinceMs };
    const moment = { ...since, isBusy, linkFreeAtMs: this.#linkPace.nextAtMs };
    const dueMs = this.#finalWanted ? 0 : planCapture(this.#pacing, moment, this.#contract) - nowMs;
    if (dueMs < DUE_NOW_MS) {
      this.#timer.disarm();
      void this.#capture();
    } else {
      const lookMs = isBusy && nowMs - outputSinceMs < LOOK_CLOSELY_MS ? CLOSE_LOOK_MS : BUSY_LOOK_MS;
      this.#timer.arm(isBusy ? Math.min(dueMs, lookMs) : dueMs);
    }
  }

  #mayCapture(): boolean {
    if (this.#ended || !this.#isRunningEpochs || this.#isCapturing || this.#isStoppedForGood) {
      return false;
    }
    // Of one that leaves in pieces the next would only repeat the pages.
    const isOneEnough = this.#throttled || (this.#linkShare !== undefined && this.#shipping !== undefined);
    return this.#finalWanted || this.#inFlight.length < (isOneEnough ? 1 : EPOCHS_IN_FLIGHT);
  }

  async #capture(): Promise<void> {
    const { checkpointer } = this.#guest;
    if (this.#ended || this.#isCapturing || checkpointer === undefined) {
      return;
    }
    this.#isCapturing = true;
    const final = this.#finalWanted;
    const startedAtMs = monotonicMs();
    const intervalMs = startedAtMs - this.#startedAtMs;
    this.#startedAtMs = startedAtMs;
    const slot = this.#slots.pop() ?? newSlot();
    const copied: Epoch[] = [];
    try {
      if (final) {
        await this.#guest.qmp.execute("stop", {});
        this.#isStoppedForGood = true;
      }
      this.#guest.shim.setQuiet(true);
      const { stateBytes, phases } = await checkpointer.capture(
        () => {
          copied.push(this.#copyOut(slot));
        },
        slot.state,
        { timeoutMs: STOP_PATIENCE_MS },
      );
      this.#guest.shim.setQuiet(false);
      const [captured] = copied;
      this.#resumedAtMs = monotonicMs() - phases.answerMs;
      this.#failures = 0;
      if (captured === undefined) {
        throw new Error("the guest was not copied");
      }
      this.#notePhases(phases, captured, { intervalMs, packetCount: this.#countPackets() });
      if (this.#mayHaveOtherDevices(slot.state, stateBytes) && !(await this.#events.keepsDevices())) {
        throw new Error("the guest has other devices than it began with");
      }
      this.#isCapturing = false;
      this.#ship(captured, stateBytes, final);
      this.#schedule();
    } catch (error) {
      this.#guest.shim.setQuiet(false);
      this.#isCapturing = false;
      this.#whenCaptureFailed(error, slot, copied[0]);
    }
  }

  /** At the first checkpoint of a session in any case. */
  #mayHaveOtherDevices(state: Buffer, stateBytes: number): boolean {
    const lastSection = readLastSection(state, stateBytes);
    const { mappingsCount } = this.#guest.shim;
    const isSame = lastSection === this.#lastSection && mappingsCount === this.#mappingsCount;
    this.#lastSection = lastSection;
    this.#mappingsCount = mappingsCount;
    return !isSame;
  }

  /** Runs while the guest stands still: nothing here may wait or allocate more than it must. */
  #copyOut(slot: Slot): Epoch {
    const { memory, shim } = this.#guest;
    const scanStartedMs = monotonicMs();
    const isFirst = shim.gate.mode !== "held";
    if (isFirst && !this.#ended) {
      shim.gate.setMode("held");
    }
    const outputPosition = shim.gate.position();
    const runs = new PageRuns(256);
    memory.scan(this.#scanned, "stopped");
    this.#takeLacking(runs);
    const scannedMs = monotonicMs();
    const bytes = runs.pageCount * PAGE_BYTES;
    if (slot.pages.length < bytes) {
      slot.pages = Buffer.allocUnsafeSlow(Math.max(bytes, slot.pages.length * 2));
    }
    memory.read(runs, slot.pages);
    const copiedMs = monotonicMs();
    this.#figures.addPhase("scan", scannedMs - scanStartedMs);
    this.#figures.addPhase("copy", copiedMs - scannedMs);
    const outputSinceMs = this.#outputSinceMs;
    this.#outputSinceMs = undefined;
    const epoch = this.#epoch;
    const diskRecords = this.#epochRecords;
    const diskBytes = this.#epochBytes;
    this.#nextEpoch();
    return { epoch, outputPosition, outputSinceMs, capturedAtMs: copiedMs, runs, slot, diskRecords, diskBytes };
  }

  /** What this epoch carries: what was just scanned and what an earlier attempt left behind. */
  #takeLacking(runs: PageRuns): void {
    if (!this.#isLacking) {
      runs.copyFrom(this.#scanned);
      return;
    }
    this.#isLacking = false;
    this.#lacking.toRuns(this.#merged);
    union(this.#scanned, this.#merged, runs);
    this.#lacking.clear();
  }

  #ship(epoch: Epoch, stateBytes: number, final: boolean): void {
    const { slot } = epoch;
    if (this.#ended) {
      this.#lacking.add(epoch.runs);
      return;
    }
    this.#inFlight.push(epoch);
    this.#figures.addCheckpoint(epoch.runs.pageCount, monotonicMs());
    const order = { epoch, stateBytes };
    this.#sortPages(order);
    const { compress, state } = planPages(this.#compression, slot.whole.pageCount * PAGE_BYTES);
    this.#compression = state;
    if (compress || this.#shipping !== undefined || this.#mustSendInPieces(slot)) {
      const rest = this.#encodeRest(order);
      this.#shipping = (this.#shipping ?? Promise.resolve()).then(() => this.#shipInTurn(order, rest, compress));
    } else {
      this.#sendEpoch(order, [...encodeEpochPages(epoch.epoch, slot), ...this.#encodeRest(order)]);
    }
    this.#events.onCaptured(epoch.epoch, final);
  }

  #mustSendInPieces({ whole, deltas }: Slot): boolean {
    const bytes = whole.pageCount * PAGE_BYTES + deltas.blockCount * WIRE_BLOCK_BYTES;
    const share = this.#linkShare;
    return share !== undefined && !this.#finalWanted && !isWithinShare(this.#linkPace, bytes, share, monotonicMs());
  }

  get #pagesPerPiece(): number {
    return this.#linkShare === undefined
      ? PAGES_PER_FRAME_MAX
      : Math.min(PAGES_PER_FRAME_MAX, Math.ceil(pieceBytesOf(this.#linkShare) / PAGE_BYTES));
  }

  /** Into pages the standby has an older version of, and pages that go whole. */
  #sortPages({ epoch }: ShipOrder): void {
    const { slot } = epoch;
    if (epoch.runs.pageCount <= PAGES_PER_FRAME_MAX) {
      this.#sentPages.sort(epoch.runs, slot.pages, slot.deltas, slot.whole);
      return;
    }
    // A guest that wrote all over its memory: comparing would be in vain.
    this.#sentPages.forget();
    slot.deltas.clear(0);
    slot.whole.copyFrom(epoch.runs);
  }

  /** What is no whole page. Deltas are made in the order of epochs, whenever they are sent. */
  #encodeRest({ epoch: { epoch, slot }, stateBytes }: ShipOrder): FrameParts[] {
    const frames: FrameParts[] = [];
    const { deltas, state } = slot;
    frames.push(...encodeEpochDeltas(epoch, deltas, this.#pagesPerPiece));
    if (!this.#sentState.compare(state, stateBytes)) {
      frames.push(encodeDeviceState(epoch, state.subarray(0, stateBytes)));
      return frames;
    }
    const { masks, changes } = this.#sentState;
    const data = Buffer.from(changes.data.subarray(0, changes.blockCount * WIRE_BLOCK_BYTES));
    frames.push(encodeStateDelta(epoch, { rawBytes: stateBytes, masks, data }));
    return frames;
  }

  async #shipInTurn(order: ShipOrder, rest: readonly FrameParts[], compress: boolean): Promise<void> {
    const { epoch } = order;
    const pages = compress
      ? await this.#compressPages(order)
      : encodeEpochPages(epoch.epoch, epoch.slot, this.#pagesPerPiece);
    const frames = [...pages, ...rest];
    const startedMs = monotonicMs();
    const sentCount = this.#linkShare === undefined ? 0 : await this.#sendPieces(epoch.epoch, frames, startedMs);
    this.#sendEpoch(order, frames, { startedMs, sentCount });
    if (epoch === this.#inFlight.at(-1)) {
      this.#shipping = undefined; // Nobody waits behind it.
      this.#schedule();
    }
  }

  async #compressPages({ epoch: { epoch, slot } }: ShipOrder): Promise<readonly FrameParts[]> {
    const startedMs = monotonicMs();
    const frames: FrameParts[] = [];
    let rawBytes = 0;
    let bytes = 0;
    for (const { starts, counts, from, to } of splitRuns(slot.whole, this.#pagesPerPiece)) {
      const raw = slot.pages.subarray(from * PAGE_BYTES, to * PAGE_BYTES);
      const data = await compressPages(raw, COMPRESSION);
      rawBytes += raw.length;
      bytes += data.length;
      frames.push(encodePages(epoch, { starts, counts }, data, raw.length));
    }
    if (rawBytes > 0) {
      this.#compression = observeCompressed(this.#compression, { rawBytes, bytes, ms: monotonicMs() - startedMs });
    }
    return frames;
  }

  /** As the share of the links allows. */
  async #sendPieces(number: number, frames: readonly FrameParts[], startedAtMs: number): Promise<number> {
    const totalBytes = frames.reduce((sum, parts) => sum + payloadBytesOf(parts), 0);
    let sentBytes = 0;
    for (const parts of frames) {
      const epoch = { startedAtMs, sentBytes, totalBytes };
      await this.#awaitShare(() => planPiece(this.#linkPace, epoch));
      this.#send(number, parts);
      sentBytes += payloadBytesOf(parts);
    }
    return frames.length;
  }

  #sendEpoch(
    { epoch, stateBytes }: ShipOrder,
    frames: readonly FrameParts[],
    // Not sooner: the link's rate must not contain the time of comparing and compressing.
    { startedMs, sentCount }: Sent = { startedMs: monotonicMs(), sentCount: 0 },
  ): void {
    const frameBytes = frames.reduce((sum, parts) => sum + payloadBytesOf(parts), 0);
    const totals = {
      pageCount: epoch.slot.whole.pageCount + epoch.slot.deltas.pageCount,
      diskRecords: epoch.diskRecords,
      bytes: epoch.diskBytes + frameBytes,
      deviceStateBytes: stateBytes,
    };
    this.#send(epoch.epoch, [...frames.slice(sentCount), encodeEpochEnd(epoch.epoch, totals)].flat(), () => {
      const ms = monotonicMs() - startedMs;
      this.#figures.addPhase("ship", ms);
      this.#compression = observeSent(this.#compression, frameBytes, ms);
    });
  }

  /** The machine has the acknowledgement: let the output leave. */
  release(throughEpoch: number): void {
    const { gate } = this.#guest.shim;
    let last: Epoch | undefined;
    const releasedAtMs = monotonicMs();
    while ((this.#inFlight[0]?.epoch ?? Infinity) <= throughEpoch) {
      last = this.#inFlight.shift();
      if (last !== undefined) {
        this.#slots.push(last.slot);
        this.#noteRelease(last, releasedAtMs);
      }
    }
    this.#unacknowledged = this.#unacknowledged.filter(({ epoch }) => epoch > throughEpoch);
    if (last !== undefined) {
      gate.releaseThrough(last.outputPosition);
    }
    this.#disks.acknowledge(throughEpoch);
    this.#answerWrites(throughEpoch);
    this.#schedule();
  }

  #noteRelease(epoch: Epoch, nowMs: number): void {
    this.#figures.addPhase("acknowledge", nowMs - epoch.capturedAtMs);
    if (epoch.outputSinceMs !== undefined) {
      this.#figures.addLatency(nowMs - epoch.outputSinceMs);
    }
    this.#decideThrottle();
  }

  /** The latency contract: one epoch at a time is the least a guest can be held to; what is still too late is reported. */
  #decideThrottle(): void {
    const { recentAddedLatency } = this.#figures;
    if (recentAddedLatency.count % 32 === 0) {
      this.#throttled = recentAddedLatency.quantile(0.9) > this.#contract.maxAddedLatencyMs;
    }
  }

  /** Age of the newest acknowledged state; undefined before the first. */
  get oldestUnacknowledgedMs(): number | undefined {
    return this.#inFlight[0]?.capturedAtMs ?? this.#batches[0]?.startedAtMs;
  }

  get isThrottled(): boolean {
    return this.#throttled;
  }

  /** No more epochs. What is not acknowledged through `acked` is lacking at the standby. */
  end(acked: number): void {
    if (this.#ended) {
      return;
    }
    this.#ended = true;
    this.#timer.close();
    this.#ramCopy?.stop();
    for (const { epoch, runs } of this.#inFlight) {
      if (epoch > acked) {
        this.#lacking.add(runs);
      }
    }
    this.#inFlight.length = 0;
    this.#unacknowledged = [];
    this.#disks.acknowledge(acked);
    this.#disks.endSession();
    this.#answerWrites(Infinity); // What the guest says of them is held, or may be said.
    for (const resolve of this.#hashesLeft.values()) {
      resolve();
    }
  }

  #whenCaptureFailed(error: unknown, slot: Slot, copied: Epoch | undefined): void {
    this.#slots.push(slot);
    if (copied !== undefined) {
      // Its disk writes are in the stream under a number that will never be whole: only a new session can go on.
      this.#lacking.add(copied.runs);
      this.#log.warn({ error, session: this.session }, "a checkpoint failed after memory was copied");
      this.#events.onBroken();
      return;
    }
    const code = (error as { readonly detail?: { readonly code?: string } }).detail?.code;
    if (code === "CheckpointBusy") {
      // The last session's checkpoint is still under way.
      setTimeout(() => void this.#capture(), BUSY_CHECKPOINT_MS);
      return;
    }
    this.#failures += 1;
    this.#log.warn({ error, session: this.session }, "a checkpoint failed");
    if (this.#failures >= CAPTURE_FAILURES_MAX || code === "StopTimedOut") {
      this.#events.onFailed(`checkpoints fail: ${error instanceof Error ? error.message : String(error)}`);
      return;
    }
    this.#resumedAtMs = monotonicMs();
    this.#schedule();
  }

  #countPackets(): number {
    const { gate } = this.#guest.shim;
    const held = gate.heldPackets;
    const fresh = Math.max(0, held - this.#packetsBefore);
    this.#packetsBefore = held;
    return fresh;
  }

  #notePhases(
    phases: { readonly stopMs: number; readonly saveMs: number; readonly pauseMs: number },
    epoch: Epoch,
    seen: { readonly intervalMs: number; readonly packetCount: number },
  ): void {
    this.#figures.addPhase("pause", phases.pauseMs);
    this.#figures.addPhase("stop", phases.stopMs);
    this.#figures.addPhase("deviceState", phases.saveMs);
    const sample = { pauseMs: phases.pauseMs, pageCount: epoch.runs.pageCount, ...seen };
    this.#pacing = observeEpoch(this.#pacing, sample, this.#contract);
  }
}

function newSlot(): Slot {
  return {
    pages: Buffer.allocUnsafeSlow(PAGES_BYTES_FIRST),
    state: Buffer.allocUnsafeSlow(STATE_BYTES_MAX),
    deltas: new DeltaBuffer(),
    whole: new PageRuns(256),
  };
}

/** Whole pages as frames of a size both sides allow, or smaller ones. */
function encodeEpochPages(epoch: number, { whole, pages }: Slot, pagesMax = PAGES_PER_FRAME_MAX): FrameParts[] {
  if (whole.pageCount <= pagesMax) {
    const table = { starts: whole.starts.subarray(0, whole.length), counts: whole.counts.subarray(0, whole.length) };
    return whole.length === 0 ? [] : [encodePages(epoch, table, pages.subarray(0, whole.pageCount * PAGE_BYTES))];
  }
  return splitRuns(whole, pagesMax).map(({ starts, counts, from, to }) =>
    encodePages(epoch, { starts, counts }, pages.subarray(from * PAGE_BYTES, to * PAGE_BYTES)),
  );
}

function encodeEpochDeltas(epoch: number, deltas: DeltaBuffer, pagesMax: number): FrameParts[] {
  const frames: FrameParts[] = [];
  let block = 0;
  for (let first = 0; first < deltas.pageCount; first += pagesMax) {
    const last = Math.min(deltas.pageCount, first + pagesMax);
    const masks = deltas.masks.subarray(2 * first, 2 * last);
    const end = block + countSetBits(masks);
    const data = deltas.data.subarray(block * WIRE_BLOCK_BYTES, end * WIRE_BLOCK_BYTES);
    frames.push(encodePageDeltas(epoch, { pages: deltas.pages.subarray(first, last), masks, data }));
    block = end;
  }
  return frames;
}

type RunPart = {
  readonly starts: Uint32Array;
  readonly counts: Uint32Array;
  readonly from: number;
  readonly to: number;
};

function splitRuns(runs: PageRuns, pagesMax: number): RunPart[] {
  const parts: RunPart[] = [];
  let starts: number[] = [];
  let counts: number[] = [];
  let from = 0;
  let pages = 0;
  const flush = (): void => {
    if (pages > 0) {
      parts.push({ starts: Uint32Array.from(starts), counts: Uint32Array.from(counts), from, to: from + pages });
      from += pages;
      starts = [];
      counts = [];
      pages = 0;
    }
  };
  for (let run = 0; run < runs.length; run += 1) {
    let start = runs.start(run);
    let left = runs.count(run);
    while (left > 0) {
      const count = Math.min(left, pagesMax - pages);
      starts.push(start);
      counts.push(count);
      pages += count;
      start += count;
      left -= count;
      if (pages === pagesMax) {
        flush();
      }
    }
  }
  flush();
  return parts;
}
