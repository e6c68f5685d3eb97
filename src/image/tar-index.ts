/**
 * One header of a tar file: ustar, GNU's long sizes, and pax sizes (POSIX.1-2001). Only what an OVA may hold is taken: files with
 * plain names, side by side. So nothing that a name says can lead out of a directory, for nothing is ever written under it.
 */
import { ImageFailure } from "./image-failure.ts";

export const TAR_BLOCK_BYTES = 512;
const SIZE_MAX = Number.MAX_SAFE_INTEGER;
/** No slash (but for a leading `./`), no control character; not `.` or `..`. */
const PLAIN_NAME = /^(?!\.{1,2}$)[^/\\\0-\x1f\x7f]{1,100}$/;

export type TarEntry =
  | { readonly tag: "file"; readonly name: string; readonly bytes: number }
  /** Says more of the file after it. */
  | { readonly tag: "pax"; readonly bytes: number }
  | { readonly tag: "end" };

/** Throws an {@link ImageFailure}. `paxSize` is what a pax header before it said. */
export function parseTarHeader(block: Uint8Array, paxSize?: number): TarEntry {
  if (block.length < TAR_BLOCK_BYTES) {
    throw new ImageFailure("Damaged", "the archive is cut off; fetch it again");
  }
  if (block.every((byte) => byte === 0)) {
    return { tag: "end" };
  }
  assertSum(block);
  const bytes = paxSize ?? readSize(block);
  const type = String.fromCharCode(block[156] ?? 0);
  if (type === "x") {
    return { tag: "pax", bytes };
  }
  if (type !== "0" && type !== "\0") {
    throw new ImageFailure(
      "FormatRefused",
      `the archive holds something that is no file (type ${JSON.stringify(type)})`,
    );
  }
  const isUstar = readLatin(block, 257, 6) === "ustar\0";
  const parts = [isUstar ? readText(block, 345, 155) : "", readText(block, 0, 100)].filter((part) => part !== "");
  const name = parts.join("/").replace(/^[.]\//, "");
  if (!PLAIN_NAME.test(name)) {
    throw new ImageFailure("FormatRefused", `the archive holds ${JSON.stringify(name)}, which is no plain file name`);
  }
  return { tag: "file", name, bytes };
}

/** Where the next header is, from the start of this one. */
export const tarStride = (bytes: number): number =>
  TAR_BLOCK_BYTES + Math.ceil(bytes / TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES;

/** The size that a pax header gives to the file after it. Names must fit into the plain header. */
export function parsePaxSize(content: Uint8Array): number | undefined {
  const records = new TextDecoder().decode(content).split("\n");
  const paths = records.some((record) => /^[0-9]+ (path|linkpath)=/.test(record));
  if (paths) {
    throw new ImageFailure("FormatRefused", "the archive gives a file a long name, which no file of an OVA has");
  }
  const [, digits] =
    records.map((record) => /^[0-9]+ size=([0-9]{1,15})$/.exec(record)).find((match) => match !== null) ?? [];
  return digits === undefined ? undefined : Number(digits);
}

function assertSum(block: Uint8Array): void {
  const sum = block.reduce((total, byte, at) => total + (at >= 148 && at < 156 ? 0x20 : byte), 0);
  const stated = /^[ \0]*([0-7]{1,7})/.exec(readLatin(block, 148, 8))?.[1] ?? "";
  if (stated === "" || Number.parseInt(stated, 8) !== sum) {
    throw new ImageFailure("FormatRefused", "it is no tar archive, as an OVA has to be");
  }
}

function readSize(block: Uint8Array): number {
  const field = block.subarray(124, 136);
  if (((field[0] ?? 0) & 0x80) !== 0) {
    const size = field.subarray(1).reduce((total, byte) => total * 256 + byte, (field[0] ?? 0) & 0x7f);
    return assertSize(size);
  }
  const digits = /^[ \0]*([0-7]{1,12})[ \0]*$/.exec(readLatin(block, 124, 12))?.[1];
  return assertSize(digits === undefined ? -1 : Number.parseInt(digits, 8));
}

function assertSize(bytes: number): number {
  if (!(bytes >= 0 && bytes <= SIZE_MAX)) {
    throw new ImageFailure("Damaged", "the archive gives a file a size that cannot be");
  }
  return bytes;
}

const readLatin = (block: Uint8Array, at: number, length: number): string =>
  String.fromCharCode(...block.subarray(at, at + length));
const readText = (block: Uint8Array, at: number, length: number): string =>
  readLatin(block, at, length).replace(/\0[^]*$/, "");
