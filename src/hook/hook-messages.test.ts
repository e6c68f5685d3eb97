import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import {
  decodeOnDefineDomainParams,
  encodeInfoResult,
  encodeOnDefineDomainResult,
  MessageFailure,
} from "./hook-messages.ts";

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(" ", ""), "hex");

describe("encoding", () => {
  test("Info is written as the format says, a negative priority as 64 bits", () => {
    const info = { name: "n", hookPoints: [{ name: "A", priority: -1 }], versions: ["v", "w"] };
    expect(encodeInfoResult(info)).toEqual(hex("0a01 6e  1a0e 0a0141 10ffffffffffffffffff01  220176 220177"));
    expect(encodeInfoResult({ name: "", hookPoints: [{ name: "B", priority: 0 }], versions: [] })).toEqual(
      hex("1a03 0a0142"),
    );
  });

  test("a long field has a length of several bytes", () => {
    expect(encodeOnDefineDomainResult("x".repeat(300)).subarray(0, 4)).toEqual(hex("0aac02 78"));
  });
});

describe("decoding", () => {
  const domain = hex("0a03 3c612f");
  const vmi = hex("1202 7b7d");

  test("fields come in any order, the last of two counts, unknown ones are skipped", () => {
    const unknown = hex("18ff01  21 0102030405060708  2d 01020304  3a00");
    expect(decodeOnDefineDomainParams(Buffer.concat([unknown, vmi, hex("0a01 3c"), domain]))).toEqual({
      domainXml: "<a/",
      vmi: "{}",
    });
  });

  test.each([
    ["a missing field", domain, "vmi is missing"],
    ["an empty message", Buffer.alloc(0), "domainXML is missing"],
    ["a field that goes beyond the end", hex("0a05 3c"), "4 bytes beyond the end"],
    ["a key that does not end", hex("ff"), "does not end"],
    ["a number of eleven bytes", hex("18 ffffffffffffffffffffff01"), "does not end"],
    ["a group", hex("0b"), "wire type 3"],
    ["the field 0", hex("0200"), "field 0"],
    ["what is not UTF-8", Buffer.concat([hex("0a01 ff"), vmi]), "domainXML is not UTF-8"],
  ])("%s is refused", (_, bytes, says) => {
    expect(() => decodeOnDefineDomainParams(bytes)).toThrow(says);
  });

  test("what is encoded is decoded; garbage makes nothing but a MessageFailure", () => {
    const filled = fc.string({ minLength: 1, unit: "grapheme" });
    fc.assert(
      fc.property(filled, (text) => {
        const bytes = Buffer.concat([encodeOnDefineDomainResult(text), vmi]);
        expect(decodeOnDefineDomainParams(bytes).domainXml).toBe(text);
      }),
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        try {
          decodeOnDefineDomainParams(Buffer.from(bytes));
        } catch (error) {
          expect(error).toBeInstanceOf(MessageFailure);
        }
      }),
    );
  });
});
