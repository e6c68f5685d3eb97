/** What an image from outside may demand. Each limit is far above what guests need and far below what hurts. */

const KIB = 1024;
const GIB = 2 ** 30;

/** Of the disk a guest sees, unless the person who imports allows more. */
export const VIRTUAL_BYTES_MAX = 2 * 2 ** 40;
/**
 * What an image may hold for each byte of its file, and a gibibyte on top. Compressed systems come to about 4; a table that
 * names one compressed cluster a million times comes to thousands.
 */
export const EXPANSION_MAX = 64;
export const EXPANSION_FREE_BYTES = GIB;

/** The descriptor inside a VMDK: three to twenty lines. */
export const DESCRIPTOR_BYTES_MAX = 64 * KIB;
/** The OVF of an OVA: some tens of kilobytes, more with translations. */
export const OVF_BYTES_MAX = 1024 * KIB;
/** Elements of an OVF. */
export const OVF_ELEMENTS_MAX = 10_000;
export const MANIFEST_BYTES_MAX = 64 * KIB;
/** Files in an OVA. */
export const OVA_FILES_MAX = 64;
/** Disks of a guest. */
export const DISKS_MAX = 8;
/** Read from the start of a file to find out what it is. */
export const HEAD_BYTES = 64 * KIB;

/** Whether so much content can come from so small a file by honest means. */
export const isBomb = (fileBytes: number, contentBytes: number): boolean =>
  contentBytes > fileBytes * EXPANSION_MAX + EXPANSION_FREE_BYTES;

export function writeBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] as const;
  const step = bytes < 1024 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** step;
  return `${value < 10 && step > 0 && !Number.isInteger(value) ? value.toFixed(1) : Math.round(value)} ${units[step] ?? ""}`;
}
