import { expect, test } from "@jest/globals";
import { parseManifest } from "./ova-manifest.ts";
import { type ImageHeader } from "./image-header.ts";
import { writeBytes } from "./image-limits.ts";
import { assertReport, parseContentBytes } from "./image-report.ts";

const header: ImageHeader = { format: "qcow2", virtualBytes: 2 ** 30 };
const info = {
  format: "qcow2",
  "virtual-size": 2 ** 30,
  "format-specific": { type: "qcow2", data: { corrupt: false } },
};

test("what agrees with the header is taken", () => {
  expect(() => {
    assertReport(info, header);
  }).not.toThrow();
});

test.each<{ what: string; change: object; says: RegExp }>([
  { what: "another format", change: { format: "raw" }, says: /takes it for raw/ },
  { what: "another size", change: { "virtual-size": 2 ** 40 }, says: /header says 1 GiB, qemu-img finds 1 TiB/ },
  { what: "a backing file", change: { "backing-filename": "/etc/passwd" }, says: /another file/ },
  {
    what: "a data file",
    change: { "format-specific": { data: { "data-file": "/etc/passwd" } } },
    says: /another file/,
  },
  { what: "parts", change: { "format-specific": { data: { extents: [{}, {}] } } }, says: /several parts/ },
  { what: "damage", change: { "format-specific": { data: { corrupt: true } } }, says: /damaged/ },
  { what: "encryption", change: { encrypted: true }, says: /encrypted/ },
])("refused: $what", ({ change, says }) => {
  expect(() => {
    assertReport({ ...info, ...change }, header);
  }).toThrow(says);
});

test("nothing comes to more than its file can hold by honest means", () => {
  expect(parseContentBytes({ required: 2 ** 30 }, 1000)).toBe(2 ** 30);
  expect(() => parseContentBytes({ required: 2 ** 40 }, 400_000)).toThrow(/1 TiB would come out of a file of 391 KiB/);
  expect(() => parseContentBytes({}, 1)).toThrow(/cannot tell/);
});

test("a manifest", () => {
  const hex = "AB".repeat(32);
  const text = `SHA256(web.ovf)= ${hex}\r\nSHA1(web-disk1.vmdk)=${"0".repeat(40)}\n`;
  expect([...parseManifest(text)]).toEqual([
    ["web.ovf", { algorithm: "sha256", hex: hex.toLowerCase() }],
    ["web-disk1.vmdk", { algorithm: "sha1", hex: "0".repeat(40) }],
  ]);
  expect(() => parseManifest(`SHA256(web.ovf)= ${hex.slice(2)}`)).toThrow(/gives no checksum/);
  expect(() => parseManifest("MD5(web.ovf)= 00")).toThrow(/gives no checksum/);
});

test("sizes for people", () => {
  expect([0, 1000, 1536, 2 ** 20, 1.5 * 2 ** 30, 2 ** 41, 2 ** 63].map(writeBytes)).toEqual([
    ...["0 B", "1000 B", "1.5 KiB", "1 MiB", "1.5 GiB", "2 TiB", "8 EiB"],
  ]);
});
