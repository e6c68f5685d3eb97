import { describe, expect, test } from "@jest/globals";
import { ImageFailure } from "./image-failure.ts";
import { type ImageStart, parseImageHeader } from "./image-header.ts";

const GIB = 2 ** 30;

type Field = readonly [at: number, value: number | bigint];

/** Big-endian, as qcow2 has them: numbers in four bytes, bigints in eight. */
function qcow2(fields: readonly Field[] = [], length = 4096): Uint8Array {
  const head = new Uint8Array(length);
  const view = new DataView(head.buffer);
  head.set([0x51, 0x46, 0x49, 0xfb]);
  const calm: readonly Field[] = [
    [4, 3],
    [20, 16],
    [24, BigInt(GIB)],
    [100, 104],
  ];
  for (const [at, value] of [...calm, ...fields]) {
    if (typeof value === "bigint") {
      view.setBigUint64(at, value);
    } else {
      view.setUint32(at, value);
    }
  }
  return head;
}

const DESCRIPTOR = [
  ...["# Disk DescriptorFile", "version=1", "CID=5f3a1c2b", "parentCID=ffffffff", 'createType="streamOptimized"'],
  'RW 2097152 SPARSE "disk.vmdk"',
].join("\n");

type Vmdk = { readonly capacity?: bigint; readonly descriptor?: string; readonly at?: bigint; readonly dirty?: number };

function vmdk({ capacity = 2_097_152n, descriptor = DESCRIPTOR, at = 1n, dirty = 0 }: Vmdk = {}): Uint8Array {
  const head = new Uint8Array(64 * 1024);
  const view = new DataView(head.buffer);
  head.set(new TextEncoder().encode("KDMV"));
  view.setBigUint64(12, capacity, true);
  view.setBigUint64(28, at, true);
  view.setBigUint64(36, 20n, true);
  view.setUint8(72, dirty);
  head.set(new TextEncoder().encode(descriptor), 512);
  return head;
}

const start = (head: Uint8Array, more: Partial<ImageStart> = {}): ImageStart => ({
  head,
  fileBytes: 1024 * 1024,
  ...more,
});

function findRefusal(given: ImageStart): string {
  try {
    parseImageHeader(given);
    return "taken";
  } catch (error) {
    if (error instanceof ImageFailure) {
      return `${error.detail.code}: ${error.message}`;
    }
    throw error;
  }
}

describe("taken", () => {
  test.each([
    { what: "a qcow2", given: start(qcow2()), format: "qcow2", bytes: GIB },
    {
      what: "a qcow2 of version 2",
      given: start(
        qcow2([
          [4, 2],
          [72, 0xffffffff],
        ]),
      ),
      format: "qcow2",
      bytes: GIB,
    },
    { what: "one with zstd and extended L2 entries", given: start(qcow2([[72, 24n]])), format: "qcow2", bytes: GIB },
    { what: "a stream-optimised VMDK", given: start(vmdk()), format: "vmdk", bytes: GIB },
    { what: "a disk without a header", given: start(new Uint8Array(4096)), format: "raw", bytes: 1024 * 1024 },
  ])("$what", ({ given, format, bytes }) => {
    expect(parseImageHeader(given)).toEqual({ format, virtualBytes: bytes });
  });

  test("a disk as large as its owner allows", () => {
    const head = qcow2([[24, BigInt(3 * 1024 * GIB)]]);
    expect(parseImageHeader(start(head, { virtualBytesMax: 4 * 1024 * GIB })).virtualBytes).toBe(3 * 1024 * GIB);
  });
});

describe("refused", () => {
  test.each<{ what: string; given: ImageStart; says: RegExp }>([
    { what: "nothing", given: start(new Uint8Array(0), { fileBytes: 0 }), says: /^Damaged: the file is empty/ },
    {
      what: "a backing file",
      given: start(qcow2([[8, 104n]])),
      says: /^RefersToFiles: .*backing file.*qemu-img convert/,
    },
    { what: "an external data file", given: start(qcow2([[72, 4n]])), says: /^RefersToFiles: .*external data file/ },
    {
      what: "the name of one, without the bit that makes it count",
      given: start(
        qcow2([
          [104, 0x44415441],
          [108, 11],
        ]),
      ),
      says: /^RefersToFiles: .*external data file/,
    },
    {
      what: "the name of one behind other extensions",
      given: start(
        qcow2([
          [104, 0x6803f857],
          [108, 13],
          [128, 0x44415441],
          [132, 4],
        ]),
      ),
      says: /^RefersToFiles/,
    },
    { what: "encryption", given: start(qcow2([[32, 2]])), says: /^FormatRefused: it is encrypted/ },
    { what: "a dirty one", given: start(qcow2([[72, 1n]])), says: /^Damaged: .*qemu-img check/ },
    { what: "a corrupt one", given: start(qcow2([[72, 2n]])), says: /^Damaged: .*qemu-img check/ },
    { what: "a feature nobody knows", given: start(qcow2([[72, 1n << 40n]])), says: /^FormatRefused: .*feature/ },
    { what: "version 1", given: start(qcow2([[4, 1]])), says: /^FormatRefused: it is version 1/ },
    { what: "clusters of 2 GiB", given: start(qcow2([[20, 31]])), says: /^Damaged: its clusters/ },
    { what: "8 EiB", given: start(qcow2([[24, 1n << 63n]])), says: /^TooLarge: its disk has 8 EiB.*--max-size/ },
    { what: "no size", given: start(qcow2([[24, 0n]])), says: /^Damaged: its disk has no size/ },
    { what: "half a header", given: start(qcow2().subarray(0, 50)), says: /^Damaged: it is cut off/ },
    {
      what: "a header of version 3 as long as one of 2",
      given: start(qcow2().subarray(0, 80)),
      says: /^Damaged: it is cut off/,
    },
    {
      what: "a VMDK whose disk is elsewhere",
      given: start(vmdk({ capacity: 0n })),
      says: /^RefersToFiles: its disk is not/,
    },
    {
      what: "a VMDK in two parts",
      given: start(vmdk({ descriptor: `${DESCRIPTOR}\nRW 2097152 SPARSE "/etc/shadow"` })),
      says: /^RefersToFiles: its disk is in 2 parts/,
    },
    {
      what: "a VMDK with a flat extent",
      given: start(vmdk({ descriptor: DESCRIPTOR.replace('SPARSE "disk.vmdk"', 'FLAT "/etc/shadow" 0') })),
      says: /^RefersToFiles: its disk is in 1 parts or not in this file/,
    },
    {
      what: "a VMDK of another type",
      given: start(vmdk({ descriptor: DESCRIPTOR.replace("streamOptimized", "monolithicFlat") })),
      says: /^RefersToFiles: it is a VMDK monolithicFlat/,
    },
    {
      what: "a snapshot's VMDK",
      given: start(vmdk({ descriptor: DESCRIPTOR.replace("ffffffff", "5f3a1c2a") })),
      says: /^RefersToFiles: it is a snapshot/,
    },
    {
      what: "one that hides its parent",
      given: start(vmdk({ descriptor: `${DESCRIPTOR}\nparentFileNameHint="/etc/shadow"` })),
      says: /^RefersToFiles: it is a snapshot/,
    },
    { what: "a VMDK without its descriptor", given: start(vmdk({ at: 0n })), says: /^Damaged: it has no descriptor/ },
    {
      what: "a descriptor behind the end",
      given: start(vmdk({ at: 1n << 50n })),
      says: /^Damaged: it has no descriptor/,
    },
    { what: "a VMDK that was not closed", given: start(vmdk({ dirty: 1 })), says: /^Damaged: it was not closed/ },
    {
      what: "the wrong format",
      given: start(qcow2(), { wanted: "raw" }),
      says: /^FormatRefused: it is qcow2 and not raw/,
    },
    {
      what: "half sectors",
      given: start(new Uint8Array(4096), { fileBytes: 1000 }),
      says: /^FormatRefused: it is no image/,
    },
    {
      what: "gzip",
      given: start(Uint8Array.of(0x1f, 0x8b, 8, 0)),
      says: /^FormatRefused: it is packed by gzip; unpack/,
    },
    {
      what: "a VMDK descriptor",
      given: start(new TextEncoder().encode(DESCRIPTOR)),
      says: /^FormatRefused: .*several files; make one/,
    },
  ])("$what", ({ given, says }) => {
    expect(findRefusal(given)).toMatch(says);
  });
});
