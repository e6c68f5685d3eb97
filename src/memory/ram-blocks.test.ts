import { expect, test } from "@jest/globals";
import { planLayout, planRamBlocks } from "./ram-blocks.ts";

const mapping = (address: bigint, bytes: number): { address: bigint; bytes: number; shared: boolean } => ({
  address,
  bytes,
  shared: false,
});

test("blocks of one size are told apart by their order", () => {
  const mappings = [mapping(0x1000n, 0x8000), mapping(0x90000n, 0x20000), mapping(0x40000n, 0x20000)];
  const listed = [
    { name: "second", offset: 0x80000, bytes: 0x20000 },
    { name: "ram", offset: 0, bytes: 0x8000 },
    { name: "first", offset: 0x40000, bytes: 0x1f801 },
  ];
  expect(planRamBlocks(listed, mappings)).toEqual([
    { name: "ram", bytes: 0x8000, address: 0x1000n },
    { name: "first", bytes: 0x20000, address: 0x90000n },
    { name: "second", bytes: 0x20000, address: 0x40000n },
  ]);
});

test("a block without a mapping is an error that names it", () => {
  expect(() => planRamBlocks([{ name: "dimm0", offset: 0, bytes: 0x4000 }], [])).toThrow(/dimm0.*preloaded/);
});

test("pages are numbered through all blocks", () => {
  const layout = planLayout([
    { name: "a", bytes: 0x3000, address: 0x7f00_0000_1000n },
    { name: "b", bytes: 0x1000, address: 0x2000n },
  ]);
  expect(layout).toEqual([
    { name: "a", address: 0x7f00_0000_1000, bytes: 0x3000, firstPage: 0, pageCount: 3 },
    { name: "b", address: 0x2000, bytes: 0x1000, firstPage: 3, pageCount: 1 },
  ]);
});

test("a block that is not made of whole pages is refused", () => {
  expect(() => planLayout([{ name: "odd", bytes: 0x1800, address: 0n }])).toThrow(/odd .*whole pages/);
});
