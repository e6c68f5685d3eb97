/**
 * The header of a VMDK that is one file (VMware's "Virtual Disk Format", sparse extent): little-endian numbers, then a descriptor
 * in text. Taken are `monolithicSparse` and `streamOptimized`, the forms that hold their disk themselves.
 */
import { ImageFailure } from "./image-failure.ts";
import { DESCRIPTOR_BYTES_MAX } from "./image-limits.ts";

const HEADER_BYTES = 80;
const SECTOR_BYTES = 512n;
const TYPES = ["monolithicSparse", "streamOptimized"];
const NO_PARENT = "ffffffff";
const convert = "make one file of it where it comes from: qemu-img convert -f vmdk -O qcow2 FILE NEW.qcow2";

/** The size of the guest's disk in bytes. Throws an {@link ImageFailure}. */
export function parseVmdkHeader(head: Uint8Array): number {
  if (head.length < HEADER_BYTES) {
    throw new ImageFailure("Damaged", "it is cut off within its header; fetch it again");
  }
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const [capacity, descriptorAt, descriptorSectors] = [12, 28, 36].map((at) => view.getBigUint64(at, true));
  // QEMU then looks for the disk in the files that the descriptor names.
  if (capacity === undefined || capacity === 0n) {
    throw new ImageFailure("RefersToFiles", `its disk is not in this file; ${convert}`);
  }
  if (view.getUint8(72) !== 0) {
    throw new ImageFailure("Damaged", "it was not closed in order; start and stop its machine once, or repair a copy");
  }
  assertDescriptor(readDescriptor(head, (descriptorAt ?? 0n) * SECTOR_BYTES, (descriptorSectors ?? 0n) * SECTOR_BYTES));
  return Number(capacity * SECTOR_BYTES);
}

function readDescriptor(head: Uint8Array, at: bigint, bytes: bigint): string {
  if (at === 0n || bytes === 0n || bytes > DESCRIPTOR_BYTES_MAX || at + bytes > BigInt(head.length)) {
    throw new ImageFailure("Damaged", `it has no descriptor where one belongs; ${convert}`);
  }
  const text = new TextDecoder("latin1").decode(head.subarray(Number(at), Number(at + bytes)));
  return text.replace(/\0[^]*$/, "");
}

function assertDescriptor(text: string): void {
  const lines = text.split(/\r?\n/).map((line) => line.trim());
  const read = (name: string): string | undefined =>
    lines
      .find((line) => line.toLowerCase().startsWith(`${name.toLowerCase()}=`))
      ?.slice(name.length + 1)
      .replaceAll('"', "");
  const parent = read("parentCID")?.toLowerCase();
  if ((parent !== undefined && parent !== NO_PARENT) || read("parentFileNameHint") !== undefined) {
    throw new ImageFailure(
      "RefersToFiles",
      `it is a snapshot of another VMDK, and only part of the disk is in it; ${convert}`,
    );
  }
  const type = read("createType") ?? "without a type";
  if (!TYPES.includes(type)) {
    throw new ImageFailure("RefersToFiles", `it is a VMDK ${type}, and ${TYPES.join(" and ")} are taken; ${convert}`);
  }
  const extents = lines.filter((line) => /^(RW|RDONLY|NOACCESS)\s/.test(line));
  if (extents.length !== 1 || !/^(RW|RDONLY)\s+[0-9]+\s+SPARSE\s/.test(extents[0] ?? "")) {
    throw new ImageFailure("RefersToFiles", `its disk is in ${extents.length} parts or not in this file; ${convert}`);
  }
}
