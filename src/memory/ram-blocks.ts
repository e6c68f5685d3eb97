/**
 * The RAM blocks of a QEMU: which bytes of its address space are the guest's, and how pages are numbered.
 *
 * Both sides of a pair lay the same blocks end to end in the same order; a global page number means the same page on both, while
 * the addresses differ.
 *
 * QEMU 7.2 does not tell the host address of a block (`info ramblock` has no HVA column yet), so {@link planRamBlocks} finds it:
 * QEMU maps blocks in the order in which it gives out ram_addr_t offsets, and the shim noted the mappings in that order, so the
 * n-th block of some size is the n-th mapping of that size.
 */
import { Failure } from "../lib/failure.ts";

export const PAGE_BYTES = 4096;

export class RamBlockFailure extends Failure<
  | { readonly code: "RamBlockNotFound"; readonly block: string }
  | { readonly code: "RamBlockMisaligned"; readonly block: string }
> {}

/** A block as QEMU's `info ramblock` describes it; `offset` is its ram_addr_t, `bytes` the total size. */
export type ListedBlock = { readonly name: string; readonly offset: number; readonly bytes: number };
/** A mapping QEMU made for guest memory, as noted by the shim, oldest first. */
export type NotedMapping = { readonly address: bigint; readonly bytes: number; readonly shared: boolean };
export type PlacedBlock = { readonly name: string; readonly bytes: number; readonly address: bigint };

/** A tracked block. Addresses of user space are below 2^47, so a number holds them exactly and costs no allocation. */
export type RamBlock = {
  readonly name: string;
  readonly address: number;
  readonly bytes: number;
  readonly firstPage: number;
  readonly pageCount: number;
};

/** Gives pages their global numbers. */
export function planLayout(blocks: readonly PlacedBlock[]): readonly RamBlock[] {
  let firstPage = 0;
  return blocks.map((block) => {
    const address = Number(block.address);
    if (block.bytes <= 0 || block.bytes % PAGE_BYTES !== 0 || address % PAGE_BYTES !== 0) {
      throw new RamBlockFailure(
        { code: "RamBlockMisaligned", block: block.name },
        `RAM block ${block.name} (${block.bytes} bytes) is not made of whole pages: leave it out, it cannot be tracked`,
      );
    }
    const placed = { name: block.name, address, bytes: block.bytes, firstPage, pageCount: block.bytes / PAGE_BYTES };
    firstPage += placed.pageCount;
    return placed;
  });
}

/** Finds the host address of every block, in the order of `wanted`'s offsets. Sizes are rounded up to pages as QEMU does. */
export function planRamBlocks(
  listed: readonly ListedBlock[],
  mappings: readonly NotedMapping[],
): readonly PlacedBlock[] {
  const unused = [...mappings];
  return [...listed]
    .sort((a, b) => a.offset - b.offset)
    .map((block) => {
      const bytes = Math.ceil(block.bytes / PAGE_BYTES) * PAGE_BYTES;
      const at = unused.findIndex((mapping) => mapping.bytes === bytes);
      const [mapping] = at < 0 ? [] : unused.splice(at, 1);
      if (mapping === undefined) {
        throw new RamBlockFailure(
          { code: "RamBlockNotFound", block: block.name },
          `no mapping of ${bytes} bytes was noted for RAM block ${block.name}: start QEMU with the twinrun shim preloaded`,
        );
      }
      return { name: block.name, bytes, address: mapping.address };
    });
}
