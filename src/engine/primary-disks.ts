/**
 * The disks of the guest that runs here: each write comes in through the mirror target, goes into the replication stream while
 * there is one, and into a map of what the standby lacks while there is none.
 */
import { createHash } from "node:crypto";
import { type FileHandle } from "node:fs/promises";
import { Failure } from "../lib/failure.ts";
import { allocateAligned, openForReading } from "../memory/block-device.ts";
import { listDataExtents } from "../memory/sparse-file.ts";
import { type SyncBasis } from "../protocol/messages.ts";
import { DiskMirror } from "../qemu/mirror.ts";
import { type QmpClient } from "../qemu/qmp-client.ts";
import { type CopyStream, DiskCopy } from "./disk-copy.ts";
import { DirtyMap, GRANULE_BYTES } from "./dirty-map.ts";
import { sayDiskFault } from "./disk-faults.ts";
import { MirrorTarget, type MirrorSink } from "./mirror-target.ts";
import { type PlacedDisk } from "./placed-disks.ts";
import { type SharedPath } from "./qemu-files.ts";

/** Where mirrored writes go while a session lasts. */
export interface DiskStream extends CopyStream {
  sendDiskWrite(disk: number, offset: number, data: Buffer): void;
  sendDiskWriteZero(disk: number, offset: number, bytes: number): void;
  /** A promise while the stream is full; unlike `room`, which is for copies, it waits for nothing else. */
  writeRoom(): Promise<void> | undefined;
  /** Until the standby has what was sent last; undefined where the guest need not wait for that. */
  acknowledged(): Promise<void> | undefined;
}

type PrimaryDisk = {
  readonly place: PlacedDisk;
  readonly file: FileHandle;
  readonly bytes: number;
  readonly isDevice: boolean;
  /** What the standby lacks, apart from what is in the stream. */
  readonly lacking: DirtyMap;
  copy: DiskCopy | undefined;
  /** What of it may be lacking, as far as nobody has looked yet. */
  uncomparedBytes: number;
};

/** A write that went into the stream and is not acknowledged. */
type Unacknowledged = {
  readonly epoch: number;
  readonly disk: number;
  readonly offset: number;
  readonly bytes: number;
};

/** The guest has not asked for what is there, but the standby needs it. */
export class DiskReadFailure extends Failure<{ readonly code: "DiskReadFailed"; readonly disk: string }> {}

export type DiskProgress = { readonly id: string; readonly syncPercent: number; readonly dirtyBytes: number };

export class PrimaryDisks implements MirrorSink {
  readonly #disks: readonly PrimaryDisk[];
  #target: MirrorTarget | undefined;
  #mirrors: DiskMirror[] = [];
  #stream: DiskStream | undefined;
  #unacknowledged: Unacknowledged[] = [];
  #epoch = 0;
  /** False until every write since some known moment has been seen. */
  #known = false;
  /** Writes went unseen since the last full comparison. */
  #hasGap = false;
  /** A whole copy was begun, and is not complete. */
  #isFullBegun = false;
  /** When this process dies the guest's writes wait so long, for nobody may hear of one while what it says may still be heard. */
  readonly #reconnectSeconds: number;
  onMirrorLost: (device: string, reason: string) => void = () => undefined;

  private constructor(disks: readonly PrimaryDisk[], reconnectSeconds: number) {
    this.#disks = disks;
    this.#reconnectSeconds = reconnectSeconds;
  }

  static async open(places: readonly PlacedDisk[], reconnectSeconds = 0): Promise<PrimaryDisks> {
    const disks = places.map(async (place) => {
      const opened = await openForReading(place.path);
      return {
        place,
        ...opened,
        lacking: new DirtyMap(opened.bytes),
        copy: undefined,
        uncomparedBytes: 0,
      };
    });
    return new PrimaryDisks(await Promise.all(disks), reconnectSeconds);
  }

  get sizes(): readonly { readonly id: string; readonly bytes: number }[] {
    return this.#disks.map(({ place, bytes }) => ({ id: place.id, bytes }));
  }

  /** Whether the maps hold everything since the last session: then a delta suffices. */
  get isKnown(): boolean {
    return this.#known && !this.#hasGap;
  }

  /** Begins to see the guest's writes. */
  async startMirrors(qmp: QmpClient, socket: SharedPath): Promise<void> {
    const exports = this.#disks.map(({ place, bytes }) => ({
      name: place.id,
      bytes,
    }));
    this.#target = await MirrorTarget.listen(socket.own, exports, this);
    await this.#mirrorAll(qmp, socket.inQemu);
  }

  /** After a mirror was lost: all of them anew. What was written in between is unknown, so disks will be compared. */
  async restartMirrors(qmp: QmpClient, socket: SharedPath): Promise<void> {
    await this.stopMirrors();
    await this.#mirrorAll(qmp, socket.inQemu);
  }

  /** From then on the guest's writes go unseen; QEMU is left as it was before the first mirror. */
  async stopMirrors(): Promise<void> {
    const mirrors = this.#mirrors;
    this.#mirrors = [];
    for (const mirror of mirrors) {
      await mirror.stop();
    }
  }

  async #mirrorAll(qmp: QmpClient, socketPath: string): Promise<void> {
    for (const [index, { place }] of this.#disks.entries()) {
      const { id, device } = place;
      if (place.isReadOnly) {
        continue;
      }
      const mirror = await DiskMirror.start(qmp, {
        device,
        index,
        socketPath,
        exportName: id,
        reconnectSeconds: this.#reconnectSeconds,
      });
      void mirror.ended.then((end) => {
        if (end.tag === "failed" && this.#mirrors.includes(mirror)) {
          this.#hasGap = true;
          this.onMirrorLost(id, end.reason);
        }
      });
      this.#mirrors.push(mirror);
    }
  }

  // The sink of the mirror target.

  writeDisk(disk: number, offset: number, data: Buffer): void {
    this.#noteWrite(disk, offset, data.length);
    this.#stream?.sendDiskWrite(disk, offset, data);
  }

  zeroDisk(disk: number, offset: number, bytes: number): void {
    this.#noteWrite(disk, offset, bytes);
    this.#stream?.sendDiskWriteZero(disk, offset, bytes);
  }

  acknowledged(): Promise<void> | undefined {
    return this.#stream?.acknowledged();
  }

  room(): Promise<void> | undefined {
    return this.#stream?.writeRoom();
  }

  #noteWrite(disk: number, offset: number, bytes: number): void {
    const target = this.#disks[disk];
    if (this.#stream === undefined) {
      target?.lacking.mark(offset, bytes);
      return;
    }
    target?.copy?.touch(offset, bytes);
    this.#unacknowledged.push({ epoch: this.#epoch, disk, offset, bytes });
  }

  /**
   * Every write from now on goes into `stream`. True when hashes have to tell what is lacking, or what more is: of a whole copy that
   * was interrupted, what has arrived is compared and not sent again.
   */
  beginSession(stream: DiskStream, basis: SyncBasis["tag"]): boolean {
    this.#stream = stream;
    this.#epoch = 0;
    this.#unacknowledged = [];
    if (basis === "delta") {
      return false;
    }
    this.#hasGap = false;
    const isNewFull = basis === "full" && !this.#isFullBegun;
    this.#isFullBegun = basis === "full";
    for (const disk of this.#disks) {
      disk.uncomparedBytes = isNewFull ? 0 : disk.bytes;
      if (isNewFull) {
        disk.lacking.markAll();
      } else if (basis === "hashes") {
        disk.lacking.clearAll();
      }
    }
    return !isNewFull;
  }

  /** What a session has still to look at or to copy. */
  get leftBytes(): number {
    return this.#disks.reduce((sum, disk) => sum + leftOf(disk), 0);
  }

  /**
   * Copies what is lacking; resolves when nothing is, or the session ended. The map is shared by all sessions, so one that has
   * ended takes nothing from it: what it took would be sent nowhere, and the session of today would never know.
   */
  async copyLacking(stream: DiskStream): Promise<void> {
    if (this.#stream !== stream) {
      return;
    }
    await Promise.all(
      this.#disks.map(async (disk, index) => {
        const dataExtents = (fd: number, offset: number, bytes: number): { offset: number; bytes: number }[] =>
          listDataExtents(fd, offset, offset + bytes).map(({ from, to }) => ({ offset: from, bytes: to - from }));
        const copy = new DiskCopy({ disk: index, file: disk.file, map: disk.lacking, stream, dataExtents });
        disk.copy = copy;
        await copy.run().catch((error: unknown) => {
          throw readFailure(disk.place, error);
        });
        if (disk.copy === copy) {
          disk.copy = undefined; // And not the next session's, which may have begun while the last read was under way.
        }
      }),
    );
    if (this.#stream === stream) {
      this.#isFullBegun = false;
    }
  }

  markLacking(disk: number, granule: number): void {
    this.#disks[disk]?.lacking.mark(granule * GRANULE_BYTES, 1);
  }

  /**
   * Marks the granules of a disk whose hashes differ from ours, as the standby's come in. A granule written meanwhile may be
   * marked needlessly, never missed: that write is in the stream.
   */
  async compare(disk: number, firstGranule: number, hashes: Uint8Array): Promise<void> {
    const target = this.#disks[disk];
    if (target === undefined) {
      return;
    }
    try {
      for await (const own of hashGranules(target, { first: firstGranule, count: hashes.byteLength / 16 }, hashes)) {
        if (own.differs && own.granule < target.lacking.granuleCount) {
          target.lacking.mark(own.granule * GRANULE_BYTES, 1);
        }
      }
      const comparedBytes = (firstGranule + hashes.byteLength / 16) * GRANULE_BYTES;
      target.uncomparedBytes = Math.max(0, target.bytes - comparedBytes);
    } catch (error) {
      throw readFailure(target.place, error);
    }
  }

  /** Writes from now on belong to `epoch`. Called while the guest stands still. */
  setEpoch(epoch: number): void {
    this.#epoch = epoch;
  }

  acknowledge(epoch: number): void {
    let index = 0;
    while (index < this.#unacknowledged.length && (this.#unacknowledged[index]?.epoch ?? Infinity) <= epoch) {
      index += 1;
    }
    if (index > 0) {
      this.#unacknowledged.splice(0, index);
    }
  }

  /** The stream is gone: what was not acknowledged is lacking again. */
  endSession(): void {
    for (const { disk, offset, bytes } of this.#unacknowledged) {
      this.#disks[disk]?.lacking.mark(offset, bytes);
    }
    this.#unacknowledged = [];
    this.#stream = undefined;
    this.#known = this.#mirrors.length > 0;
    for (const { copy } of this.#disks) {
      copy?.stop();
    }
  }

  progress(): readonly DiskProgress[] {
    return this.#disks.map((disk) => ({
      id: disk.place.id,
      syncPercent: Math.round((1 - Math.min(1, leftOf(disk) / Math.max(1, disk.bytes))) * 1000) / 10,
      dirtyBytes: disk.lacking.dirtyCount * GRANULE_BYTES,
    }));
  }

  async close(): Promise<void> {
    this.#target?.close();
    this.#mirrors = [];
    await Promise.all(this.#disks.map(({ file }) => file.close().catch(() => undefined)));
  }
}

const leftOf = ({ lacking, uncomparedBytes }: PrimaryDisk): number =>
  uncomparedBytes + lacking.dirtyCount * GRANULE_BYTES;

function readFailure({ id, path }: PlacedDisk, cause: unknown): DiskReadFailure {
  const why = cause instanceof Error ? cause.message : String(cause);
  const remedy = "the standby cannot be given what is there: mend the volume, or move the guest off it";
  const says = sayDiskFault(id, `reading ${path} failed: ${why}; ${remedy}`);
  return new DiskReadFailure({ code: "DiskReadFailed", disk: id }, says, { cause });
}

const HASH_CHUNK_GRANULES = 16;
/** What a granule of zeros hashes to: all zero, so that holes need not be read on either side. */
const ZERO_HASH = Buffer.alloc(16);
const ZERO_GRANULE = Buffer.alloc(GRANULE_BYTES);

/** 16 bytes that tell a granule's content: half of a SHA-256, or zeros for zeros. */
export function hashGranule(data: Buffer): Buffer {
  if (data.length === GRANULE_BYTES ? data.equals(ZERO_GRANULE) : data.every((byte) => byte === 0)) {
    return ZERO_HASH;
  }
  return createHash("sha256").update(data).digest().subarray(0, 16);
}

type Compared = { readonly granule: number; readonly hash: Buffer; readonly differs: boolean };

/**
 * Hashes granules of a disk, skipping holes. With `theirs` a granule that they have as zeros and we as data is not even
 * hashed: it differs.
 */
export async function* hashGranules(
  disk: { readonly file: FileHandle; readonly bytes: number; readonly isDevice: boolean },
  { first, count }: { readonly first: number; readonly count: number },
  theirs?: Uint8Array,
): AsyncGenerator<Compared> {
  const { file, bytes: diskSize, isDevice } = disk;
  const chunk = allocateAligned(HASH_CHUNK_GRANULES * GRANULE_BYTES);
  for (let at = first; at < first + count; at += HASH_CHUNK_GRANULES) {
    const granules = Math.min(HASH_CHUNK_GRANULES, first + count - at);
    const offset = at * GRANULE_BYTES;
    const bytes = Math.min(granules * GRANULE_BYTES, diskSize - offset);
    const holes = bytes <= 0 || listDataExtents(file.fd, offset, offset + bytes).length === 0;
    const theirZeros =
      theirs !== undefined && isAllZero(theirs.subarray((at - first) * 16, (at - first + granules) * 16));
    if (!holes && theirZeros && !isDevice) {
      // A first copy onto an empty volume: what holds data differs, and is read once, when it is copied. (Devices know no holes.)
      yield* listDiffering(at, granules);
      continue;
    }
    if (!holes) {
      await readWhole(file, chunk.subarray(0, bytes), offset);
    }
    for (let index = 0; index < granules; index += 1) {
      const their = theirs?.subarray((at - first + index) * 16, (at - first + index + 1) * 16);
      const data = chunk.subarray(index * GRANULE_BYTES, Math.min((index + 1) * GRANULE_BYTES, Math.max(0, bytes)));
      yield compareGranule(at + index, holes || data.length === 0 ? undefined : data, their);
    }
    if (!holes) {
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
}

function* listDiffering(first: number, count: number): Generator<Compared> {
  for (let granule = first; granule < first + count; granule += 1) {
    yield { granule, hash: ZERO_HASH, differs: true };
  }
}

function isAllZero(hashes: Uint8Array): boolean {
  return hashes.every((byte) => byte === 0);
}

function compareGranule(granule: number, data: Buffer | undefined, theirs: Uint8Array | undefined): Compared {
  if (data !== undefined && theirs !== undefined && ZERO_HASH.equals(theirs)) {
    return { granule, hash: ZERO_HASH, differs: !isZero(data) };
  }
  const hash = data === undefined ? ZERO_HASH : hashGranule(data);
  return { granule, hash, differs: theirs !== undefined && !hash.equals(theirs) };
}

function isZero(data: Buffer): boolean {
  return data.length === GRANULE_BYTES ? data.equals(ZERO_GRANULE) : data.every((byte) => byte === 0);
}

async function readWhole(file: FileHandle, into: Buffer, offset: number): Promise<void> {
  let filled = 0;
  while (filled < into.length) {
    const { bytesRead } = await file.read(into, filled, into.length - filled, offset + filled);
    if (bytesRead === 0) {
      into.fill(0, filled);
      return;
    }
    filled += bytesRead;
  }
}
