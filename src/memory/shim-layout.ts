/**
 * The shared memory of the preload shim, as laid out by `struct shared` in shim/shim.c: places of the 32-bit words and the
 * meaning of their values. Both files change together, with SHIM_VERSION.
 */
export const SHIM_MAGIC = 0x4e525754;
export const SHIM_VERSION = 2;
/** The memfd of the shim, as /proc/PID/fd shows it. */
export const SHIM_LINK = "/memfd:twinrun-shim (deleted)";

/** Indices into the header as an Int32Array or Uint32Array. */
export const WORD = {
  magic: 0,
  version: 1,
  ringBytes: 2,
  ringOffset: 3,
  mode: 4,
  quiet: 5,
  armed: 6,
  lock: 7,
  userfaultfd: 8,
  userfaultError: 9,
  wakeFd: 10,
  mappingCount: 11,
  mappingsLost: 12,
  buttonOnly: 13,
  head: 16,
  packetsIn: 17,
  dropped: 18,
  full: 19,
  quieted: 20,
  released: 32,
  tail: 33,
  packetsOut: 34,
  leasedUntil: 35,
} as const;

export const MODES = ["open", "held", "closed", "leased"] as const;
export type OutputMode = (typeof MODES)[number];

export const LOCK = { free: 0, qemu: 1, engine: 2 } as const;
/** Length of a record that only says "go on at the start of the ring". */
export const SKIP = 0xffff_ffff;
export const RECORD_HEADER_BYTES = 8;

export const MAPPINGS_OFFSET = 1024;
export const MAPPING_BYTES = 24;
export const MAPPINGS_MAX = 256;
export const MAPPING_SHARED = 1;
