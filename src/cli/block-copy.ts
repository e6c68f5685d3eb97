/**
 * Makes one disk equal to another, block by block: hashes are compared, and only what differs is sent. So it may be broken off at any
 * moment and started again: what arrived stays, and what did not is found.
 */
import { createHash } from "node:crypto";
import { VOLUME_BLOCK_BYTES } from "../protocol/volume-frames.ts";

export type BlockStore = {
  readonly bytes: number;
  /** Nothing was ever written to it. */
  readonly isEmpty: boolean;
  /** Of so many blocks from there, or of those there are. */
  hash(offset: number, count: number): Promise<readonly Buffer[]>;
  read(offset: number, bytes: number): Promise<Uint8Array>;
  write(offset: number, content: Uint8Array): Promise<void>;
  flush(): Promise<void>;
};

export type BlockCopy = {
  readonly source: BlockStore;
  /** At least as long. */
  readonly target: BlockStore;
  readonly signal: AbortSignal;
  readonly onProgress: (progress: CopyProgress) => void;
};

export type CopyProgress = {
  readonly doneBytes: number;
  readonly allBytes: number;
  /** Sent, for it differed. */
  readonly sentBytes: number;
};

/** Of one question, and how many are under way: what is in memory, and what covers the way there and back. */
const BATCH_BLOCKS = 8;
const BATCH_BYTES = BATCH_BLOCKS * VOLUME_BLOCK_BYTES;
const BATCHES_UNDER_WAY = 3;

const hashOf = (content: Uint8Array): Buffer => createHash("sha256").update(content).digest();
const hashZeros = (bytes: number): Buffer => hashOf(Buffer.alloc(bytes));
const BLOCK_OF_ZEROS = hashZeros(VOLUME_BLOCK_BYTES);

/** How much was sent. When it comes back everything is on the target's disk. */
export async function copyBlocks({ source, target, signal, onProgress }: BlockCopy): Promise<CopyProgress> {
  let [nextAt, doneBytes, sentBytes] = [0, 0, 0];
  const allBytes = source.bytes;
  const copyBatches = async (): Promise<void> => {
    while (nextAt < allBytes) {
      signal.throwIfAborted();
      const at = nextAt;
      nextAt += BATCH_BYTES;
      // Added only then: others add to it meanwhile.
      const sent = await copyBatch(source, target, at);
      sentBytes += sent;
      doneBytes += Math.min(BATCH_BYTES, allBytes - at);
      onProgress({ doneBytes, allBytes, sentBytes });
    }
  };
  await Promise.all(Array.from({ length: BATCHES_UNDER_WAY }, copyBatches));
  await target.flush();
  return { doneBytes, allBytes, sentBytes };
}

async function copyBatch(source: BlockStore, target: BlockStore, batchAt: number): Promise<number> {
  const wanted = await source.hash(batchAt, BATCH_BLOCKS);
  const present = target.isEmpty ? [] : await target.hash(batchAt, BATCH_BLOCKS);
  let sentBytes = 0;
  for (const [index, hash] of wanted.entries()) {
    const at = batchAt + index * VOLUME_BLOCK_BYTES;
    const bytes = Math.min(VOLUME_BLOCK_BYTES, source.bytes - at);
    const isWhole = bytes === VOLUME_BLOCK_BYTES;
    const zeros = isWhole ? BLOCK_OF_ZEROS : hashZeros(bytes);
    // The target's last block may be longer than the source's, and then its hash says nothing: it is sent.
    const has = target.isEmpty ? zeros : isWhole || target.bytes === source.bytes ? present[index] : undefined;
    if (has?.equals(hash) !== true) {
      await target.write(at, await source.read(at, bytes));
      sentBytes += bytes;
    }
  }
  return sentBytes;
}
