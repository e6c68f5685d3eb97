import { describe, expect, test } from "@jest/globals";
import { encodeTarHeader } from "../cli/tar.ts";
import { ImageFailure } from "./image-failure.ts";
import { parsePaxSize, parseTarHeader, tarStride } from "./tar-index.ts";

/** Writes bytes into a good header and sums it up anew. */
function header(name: string, bytes: number, changes: readonly (readonly [number, string])[] = []): Buffer {
  const block = encodeTarHeader(name, bytes, 0);
  for (const [at, text] of changes) {
    block.write(text, at, "latin1");
  }
  block.write("        ", 148);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return block;
}

function findRefusal(block: Uint8Array): string {
  try {
    parseTarHeader(block);
    return "taken";
  } catch (error) {
    if (error instanceof ImageFailure) {
      return error.message;
    }
    throw error;
  }
}

test.each([
  { bytes: 0, stride: 512 },
  { bytes: 1, stride: 1024 },
  { bytes: 512, stride: 1024 },
  { bytes: 8 ** 11 - 1, stride: 8 ** 11 + 512 },
  { bytes: 2 ** 40, stride: 2 ** 40 + 512 },
])("a file of $bytes bytes", ({ bytes, stride }) => {
  const block = encodeTarHeader("web-disk1.vmdk", bytes, 0);
  expect(parseTarHeader(block)).toEqual({ tag: "file", name: "web-disk1.vmdk", bytes });
  expect(tarStride(bytes)).toBe(stride);
});

test("a pax header gives the file after it its size", () => {
  expect(parseTarHeader(header("a", 30, [[156, "x"]]))).toEqual({ tag: "pax", bytes: 30 });
  const bytes = parsePaxSize(Buffer.from("20 size=9000000000\n16 mtime=1.25\n"));
  expect(parseTarHeader(header("big.vmdk", 0), bytes)).toEqual({ tag: "file", name: "big.vmdk", bytes: 9e9 });
});

test("a name behind ./ is plain, and an empty block is the end", () => {
  expect(parseTarHeader(header("./web.ovf", 1))).toEqual({ tag: "file", name: "web.ovf", bytes: 1 });
  expect(parseTarHeader(new Uint8Array(512))).toEqual({ tag: "end" });
});

describe("refused", () => {
  test.each<{ what: string; block: Uint8Array; says: RegExp }>([
    { what: "a path up", block: header("../web.ovf", 1), says: /no plain file name/ },
    { what: "a path up behind ./", block: header("./../web.ovf", 1), says: /no plain file name/ },
    { what: "an absolute path", block: header("/etc/passwd", 1), says: /no plain file name/ },
    { what: "a folder in the prefix", block: header("passwd", 1, [[345, "etc"]]), says: /no plain file name/ },
    { what: "a backslash", block: header("..\\web.ovf", 1), says: /no plain file name/ },
    { what: "a line break", block: header("web\n.ovf", 1), says: /no plain file name/ },
    { what: "..", block: header("..", 1), says: /no plain file name/ },
    { what: "a symbolic link", block: header("web.ovf", 0, [[156, "2"]]), says: /no file/ },
    { what: "a device", block: header("web.ovf", 0, [[156, "3"]]), says: /no file/ },
    { what: "a sparse file", block: header("web.ovf", 0, [[156, "S"]]), says: /no file/ },
    { what: "a size below zero", block: header("web.ovf", 0, [[124, "\xff".repeat(12)]]), says: /size that cannot be/ },
    {
      what: "a size that is no number",
      block: header("web.ovf", 0, [[124, "12345678901x"]]),
      says: /size that cannot be/,
    },
    { what: "half a block", block: header("web.ovf", 0).subarray(0, 300), says: /cut off/ },
    { what: "a wrong sum", block: Buffer.from(encodeTarHeader("web.ovf", 1, 0).fill(1, 0, 1)), says: /no tar archive/ },
  ])("$what", ({ block, says }) => {
    expect(findRefusal(block)).toMatch(says);
  });

  test("a long name in a pax header", () => {
    expect(() => parsePaxSize(Buffer.from("26 path=../../../etc/passwd\n"))).toThrow(/long name/);
  });
});
