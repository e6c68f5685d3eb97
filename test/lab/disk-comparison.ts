/**
 * Whether the two sides of a guest have the same disk, while the guest runs.
 *
 * A running guest writes, and a write is on one disk a moment before it is on the other. So blocks that differ are looked at
 * again, and only those: a block on its way becomes equal, a block that was lost stays different for ever. That also needs no
 * pause and no help from what is being tested.
 */
import { open, type FileHandle } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

const blockBytes = 64 * 1024;
const blocksPerRead = 64;

export type DiskComparison = {
  readonly bytes: number;
  readonly roundsCount: number;
  /** Byte offsets of blocks that differ and do not change any more. Empty: the disks are equal. */
  readonly differingOffsets: readonly number[];
};

/** Gives up after `timeoutMs`; then what differs counts as different. */
export async function compareDisks(pathA: string, pathB: string, timeoutMs: number): Promise<DiskComparison> {
  const deadlineMs = Date.now() + timeoutMs;
  const files = await Promise.all([open(pathA, "r"), open(pathB, "r")]);
  try {
    const bytes = Math.min(...(await Promise.all(files.map(async (file) => (await file.stat()).size))));
    let differing = await findDifferences(files, bytes);
    let roundsCount = 1;
    while (differing.length > 0 && Date.now() < deadlineMs) {
      await sleep(200);
      differing = await recheck(files, differing);
      roundsCount += 1;
    }
    return { bytes, roundsCount, differingOffsets: differing };
  } finally {
    await Promise.all(files.map((file) => file.close()));
  }
}

type Pair = readonly [FileHandle, FileHandle];

async function findDifferences(files: Pair, bytes: number): Promise<number[]> {
  const stride = blockBytes * blocksPerRead;
  const buffers = [Buffer.alloc(stride), Buffer.alloc(stride)] as const;
  const differing: number[] = [];
  for (let offset = 0; offset < bytes; offset += stride) {
    const length = Math.min(stride, bytes - offset);
    const [a, b] = await readBoth(files, buffers, offset, length);
    if (!a.equals(b)) {
      differing.push(...listDifferingBlocks(a, b).map((within) => offset + within));
    }
  }
  return differing;
}

async function recheck(files: Pair, offsets: readonly number[]): Promise<number[]> {
  const buffers = [Buffer.alloc(blockBytes), Buffer.alloc(blockBytes)] as const;
  const differing: number[] = [];
  for (const offset of offsets) {
    const [a, b] = await readBoth(files, buffers, offset, blockBytes);
    if (!a.equals(b)) {
      differing.push(offset);
    }
  }
  return differing;
}

async function readBoth(
  files: Pair,
  buffers: readonly [Buffer, Buffer],
  offset: number,
  length: number,
): Promise<readonly [Buffer, Buffer]> {
  const [a, b] = await Promise.all([
    files[0].read(buffers[0], 0, length, offset),
    files[1].read(buffers[1], 0, length, offset),
  ]);
  return [buffers[0].subarray(0, a.bytesRead), buffers[1].subarray(0, b.bytesRead)];
}

function listDifferingBlocks(a: Buffer, b: Buffer): number[] {
  const offsets: number[] = [];
  for (let offset = 0; offset < Math.max(a.length, b.length); offset += blockBytes) {
    if (!a.subarray(offset, offset + blockBytes).equals(b.subarray(offset, offset + blockBytes))) {
      offsets.push(offset);
    }
  }
  return offsets;
}
