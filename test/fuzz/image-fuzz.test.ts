/** Files that nobody made in good faith: a parser takes them or refuses them with an ImageFailure, soon, and does nothing else. */
import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { encodeTarHeader } from "../../src/cli/tar.ts";
import { ImageFailure } from "../../src/image/image-failure.ts";
import { parseImageHeader } from "../../src/image/image-header.ts";
import { assertReport, parseContentBytes } from "../../src/image/image-report.ts";
import { parseManifest } from "../../src/image/ova-manifest.ts";
import { encodeOvf } from "../../src/image/ovf-writer.ts";
import { parseOvf } from "../../src/image/ovf.ts";
import { parsePaxSize, parseTarHeader } from "../../src/image/tar-index.ts";

const runs = { numRuns: 2_000 };

function expectFailureOrNothing(read: () => unknown): void {
  try {
    read();
  } catch (error) {
    expect(error).toBeInstanceOf(ImageFailure);
  }
}

/** Random bytes, most often behind the beginning of something known. */
const anyHead = fc
  .tuple(
    fc.constantFrom("", "QFI\xfb\0\0\0\x02", "QFI\xfb\0\0\0\x03", "KDMV", "\x1f\x8b", "# Disk Desc", "conectix"),
    fc.uint8Array({ maxLength: 2_000 }),
    fc.array(fc.tuple(fc.nat(140), fc.constantFrom(0, 1, 255)), { maxLength: 20 }),
  )
  .map(([magic, rest, changes]) => {
    const head = Buffer.concat([Buffer.from(magic, "latin1"), rest]);
    for (const [at, value] of changes) {
      if (at >= magic.length && at < head.length) {
        head[at] = value;
      }
    }
    return new Uint8Array(head);
  });

test("heads of images", () => {
  fc.assert(
    fc.property(anyHead, fc.maxSafeNat(), (head, fileBytes) => {
      expectFailureOrNothing(() => parseImageHeader({ head, fileBytes }));
    }),
    runs,
  );
});

test("headers of tars, good ones with bytes changed", () => {
  const changes = fc.array(fc.tuple(fc.nat(511), fc.nat(255)), { maxLength: 6 });
  fc.assert(
    fc.property(fc.string(), fc.maxSafeNat(), changes, fc.boolean(), (name, bytes, changed, mends) => {
      const block = encodeTarHeader(name, bytes, 0);
      for (const [at, value] of changed) {
        block[at] = value;
      }
      if (mends) {
        block.write("        ", 148);
        block.write(
          `${block
            .reduce((sum, byte) => sum + byte, 0)
            .toString(8)
            .padStart(6, "0")}\0 `,
          148,
        );
      }
      expectFailureOrNothing(() => {
        const entry = parseTarHeader(block);
        if (entry.tag === "file") {
          expect(entry.name).toMatch(/^[^/\\\0]+$/);
          expect([".", ".."]).not.toContain(entry.name);
        }
        expect(entry.tag === "end" || (entry.bytes >= 0 && Number.isSafeInteger(entry.bytes))).toBe(true);
      });
    }),
    runs,
  );
});

test("OVFs, cut and mixed", () => {
  const disks = [{ file: "a.vmdk", fileBytes: 1, virtualBytes: 512 }];
  const good = encodeOvf({ name: "a", cores: 1, memoryBytes: 2 ** 20, isEfi: true, networks: ["b"], disks });
  const place = fc.nat(good.length);
  fc.assert(
    fc.property(place, place, fc.string(), (from, to, inserted) => {
      expectFailureOrNothing(() => parseOvf(good.slice(0, from) + inserted + good.slice(to)));
    }),
    runs,
  );
});

test("an OVF nested deeply is read or refused, and does not exhaust the stack", () => {
  const depth = 9_000;
  expectFailureOrNothing(() => parseOvf(`<Envelope>${"<a>".repeat(depth)}${"</a>".repeat(depth)}</Envelope>`));
});

test("manifests, pax headers and what qemu-img says", () => {
  fc.assert(
    fc.property(fc.string(), fc.json(), fc.nat(), (text, json, bytes) => {
      const said: unknown = JSON.parse(json);
      expectFailureOrNothing(() => parseManifest(text));
      expectFailureOrNothing(() => parsePaxSize(Buffer.from(text)));
      expectFailureOrNothing(() => {
        assertReport(said, { format: "vmdk", virtualBytes: bytes });
      });
      expectFailureOrNothing(() => parseContentBytes(said, bytes));
    }),
    runs,
  );
});
