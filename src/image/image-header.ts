/**
 * What a disk image says of itself, read here before any other program opens it.
 *
 * Why not by qemu-img alone: opening an image is enough for it to read whatever file the image names as its backing file or
 * external data file. Here nothing is followed; what names another file is refused, and qemu-img is told the format.
 */
import { ImageFailure } from "./image-failure.ts";
import { VIRTUAL_BYTES_MAX, writeBytes } from "./image-limits.ts";
import { parseQcow2Header } from "./qcow2-header.ts";
import { parseVmdkHeader } from "./vmdk-header.ts";

export const IMAGE_FORMATS = ["qcow2", "vmdk", "raw"] as const;
export type ImageFormat = (typeof IMAGE_FORMATS)[number];

const SECTOR_BYTES = 512;

export type ImageHeader = { readonly format: ImageFormat; readonly virtualBytes: number };

export type ImageStart = {
  /** The first bytes of the file, up to HEAD_BYTES. */
  readonly head: Uint8Array;
  readonly fileBytes: number;
  /** What the person who imports says it is. */
  readonly wanted?: ImageFormat | undefined;
  readonly virtualBytesMax?: number | undefined;
};

/** Throws an {@link ImageFailure} that says what to do. */
export function parseImageHeader({ head, fileBytes, wanted, virtualBytesMax }: ImageStart): ImageHeader {
  if (fileBytes === 0) {
    throw new ImageFailure("Damaged", "the file is empty");
  }
  const refused = FOREIGN.find(({ at, magic }) => hasBytes(head, at, magic));
  if (refused !== undefined) {
    throw new ImageFailure("FormatRefused", `it is ${refused.what}; ${refused.remedy}`);
  }
  const header = parseKnown(head, fileBytes);
  if (wanted !== undefined && wanted !== header.format) {
    throw new ImageFailure("FormatRefused", `it is ${header.format} and not ${wanted}: leave out --format`);
  }
  assertSize(header.virtualBytes, virtualBytesMax ?? VIRTUAL_BYTES_MAX);
  return header;
}

function parseKnown(head: Uint8Array, fileBytes: number): ImageHeader {
  if (hasBytes(head, 0, "QFI\xfb")) {
    return { format: "qcow2", virtualBytes: parseQcow2Header(head) };
  }
  if (hasBytes(head, 0, "KDMV")) {
    return { format: "vmdk", virtualBytes: parseVmdkHeader(head) };
  }
  if (fileBytes % SECTOR_BYTES !== 0) {
    throw new ImageFailure(
      "FormatRefused",
      `it is no image known here: a raw disk has whole sectors of ${SECTOR_BYTES} bytes`,
    );
  }
  return { format: "raw", virtualBytes: fileBytes };
}

function assertSize(bytes: number, bytesMax: number): void {
  if (bytes === 0) {
    throw new ImageFailure("Damaged", "its disk has no size");
  }
  if (bytes > bytesMax) {
    const says = `its disk has ${writeBytes(bytes)}, and the limit is ${writeBytes(bytesMax)}`;
    throw new ImageFailure("TooLarge", `${says}; allow more with --max-size if you know where it comes from`);
  }
}

type Foreign = { readonly what: string; readonly at: number; readonly magic: string; readonly remedy: string };

const unpack = "unpack it first";
const convert = "where you trust it, convert it yourself: qemu-img convert -f FORMAT -O qcow2 FILE NEW.qcow2";
/** Known, and not taken. What is not known here and has no header of its own is a raw disk. */
const FOREIGN: readonly Foreign[] = [
  { what: "packed by gzip", at: 0, magic: "\x1f\x8b", remedy: unpack },
  { what: "packed by xz", at: 0, magic: "\xfd7zXZ\0", remedy: unpack },
  { what: "packed by zstd", at: 0, magic: "\x28\xb5\x2f\xfd", remedy: unpack },
  { what: "packed by bzip2", at: 0, magic: "BZh", remedy: unpack },
  { what: "a zip archive", at: 0, magic: "PK\x03\x04", remedy: unpack },
  {
    ...{ what: "the descriptor of a VMDK in several files", at: 0, magic: "# Disk DescriptorFile" },
    remedy: "make one file of them where they are: qemu-img convert -f vmdk -O qcow2 FILE NEW.qcow2",
  },
  { what: "a VMDK of ESX 2 (COWD)", at: 0, magic: "COWD", remedy: convert },
  { what: "a VDI image", at: 0x40, magic: "\x7f\x10\xda\xbe", remedy: convert },
  { what: "a VHDX image", at: 0, magic: "vhdxfile", remedy: convert },
  { what: "a VHD image", at: 0, magic: "conectix", remedy: convert },
  { what: "a QED image", at: 0, magic: "QED\0", remedy: convert },
  {
    what: "encrypted by LUKS",
    at: 0,
    magic: "LUKS\xba\xbe",
    remedy: "decrypt it first; a guest may encrypt its own disk",
  },
];

function hasBytes(bytes: Uint8Array, at: number, magic: string): boolean {
  return (
    bytes.length >= at + magic.length &&
    Array.from(magic).every((letter, index) => bytes[at + index] === letter.charCodeAt(0))
  );
}
