/** Disks in files, one of them behind the pod's end of the conversation, whose connection breaks at any moment. */
import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { type PodStream } from "../kube/pod-stream.ts";
import { VOLUME_BLOCK_BYTES } from "../protocol/volume-frames.ts";
import { serveVolume } from "../volume/volume-server.ts";
import { copyBlocks, type CopyProgress } from "./block-copy.ts";
import { LocalVolume } from "./local-volume.ts";
import { RemoteVolume } from "./remote-volume.ts";

const BLOCK = VOLUME_BLOCK_BYTES;
const { signal } = new AbortController();

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "twinrun-copy-"));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});
const file = (name: string): string => join(directory, name);

/** A pod without a cluster; its connection takes `bytesMax` and then is gone. */
function startPod(path: string, access: "read" | "write", bytesMax = Infinity): PodStream {
  const [input, output] = [new PassThrough(), new PassThrough()];
  let take: (part: Buffer) => void = () => undefined;
  let left = bytesMax;
  output.on("data", (part: Buffer) => {
    take(part);
  });
  const served = serveVolume({ path, access, input, output, onQuestion: () => undefined });
  let breakOff = (): void => undefined;
  const ended = new Promise<void>((resolve, reject) => {
    breakOff = () => {
      reject(new Error("broken off"));
    };
    void served.then(() => {
      resolve();
    });
  });
  ended.catch(() => undefined);
  const pod = {
    ended,
    onOutput: (taker: typeof take) => (take = taker),
    write: async (content: Uint8Array) => {
      left -= content.length;
      if (left < 0) {
        take = () => undefined;
        input.end();
        breakOff();
        throw new Error("broken off");
      }
      input.write(Buffer.from(content));
    },
    end: async () => {
      input.end();
      await served;
    },
    close: () => {
      input.end();
    },
  };
  return pod as unknown as PodStream;
}

async function send(bytesMax = Infinity, volumeBytes = 0): Promise<CopyProgress> {
  const source = await LocalVolume.open(file("source"), "read");
  const target = await RemoteVolume.open(
    startPod(file("target"), "write", bytesMax),
    Math.max(source.bytes, volumeBytes),
  );
  try {
    const done = await copyBlocks({ source, target, signal, onProgress: () => undefined });
    await target.close();
    return done;
  } finally {
    target.abandon();
    await source.close();
  }
}

/** Content, zeros, content, zeros, and a last block that is not whole. */
const content = (): Buffer =>
  Buffer.concat([
    randomBytes(2 * BLOCK),
    Buffer.alloc(5 * BLOCK),
    randomBytes(BLOCK + 1000),
    Buffer.alloc(BLOCK),
    randomBytes(512),
  ]);

test("what is sent arrives, and zeros neither travel nor take room", async () => {
  const wanted = content();
  writeFileSync(file("source"), wanted);
  const { sentBytes, allBytes } = await send();
  expect(readFileSync(file("target")).equals(wanted)).toBe(true);
  expect(allBytes).toBe(wanted.length);
  // Two whole blocks, one and the beginning of the next, and the last with its 1512 bytes.
  expect(sentBytes).toBe(4 * BLOCK + wanted.length - 9 * BLOCK);
  expect(statSync(file("target")).blocks * 512).toBeLessThan(7 * BLOCK);
});

test("what arrived before the connection broke is not sent again", async () => {
  const wanted = content();
  writeFileSync(file("source"), wanted);
  await expect(send(2 * BLOCK + 1_000)).rejects.toThrow("broken off");
  const { sentBytes } = await send();
  expect(readFileSync(file("target")).equals(wanted)).toBe(true);
  expect(sentBytes).toBeGreaterThan(0);
  expect(sentBytes).toBeLessThanOrEqual(5 * BLOCK);
  expect((await send()).sentBytes).toBe(0);
});

test("whatever was there before is written over, zeros too", async () => {
  const wanted = content();
  writeFileSync(file("source"), wanted);
  writeFileSync(file("target"), randomBytes(wanted.length));
  await send();
  expect(readFileSync(file("target")).equals(wanted)).toBe(true);
});

test("a volume may be larger than the disk", async () => {
  const wanted = content();
  writeFileSync(file("source"), wanted);
  await send(Infinity, 12 * BLOCK);
  const found = readFileSync(file("target"));
  expect(found.length).toBe(12 * BLOCK);
  expect(found.subarray(0, wanted.length).equals(wanted)).toBe(true);
  expect(found.subarray(wanted.length).every((byte) => byte === 0)).toBe(true);
  await send(Infinity, 12 * BLOCK);
  expect(readFileSync(file("target")).equals(found)).toBe(true);
});

test("the way back", async () => {
  const wanted = content();
  writeFileSync(file("volume"), wanted);
  const source = await RemoteVolume.open(startPod(file("volume"), "read"), 0);
  const target = await LocalVolume.open(file("copy"), "write", source.bytes);
  await copyBlocks({ source, target, signal, onProgress: () => undefined });
  await Promise.all([source.close(), target.close()]);
  expect(readFileSync(file("copy")).equals(wanted)).toBe(true);
});

test("a pod that cannot read its volume says why", async () => {
  await expect(RemoteVolume.open(startPod(file("missing"), "read"), 0)).rejects.toThrow(/the pod .* says: .*ENOENT/);
});

test("a volume that may only be read is not written to", async () => {
  writeFileSync(file("source"), content());
  writeFileSync(file("volume"), Buffer.alloc(BLOCK));
  const volume = await RemoteVolume.open(startPod(file("volume"), "read"), 0);
  await expect(volume.write(0, Buffer.alloc(512, 1))).rejects.toThrow(/EBADF/);
  expect(readFileSync(file("volume")).every((byte) => byte === 0)).toBe(true);
});

test("who speaks something else is told so", async () => {
  const volume = startPod(file("source"), "read");
  let said = Buffer.alloc(0);
  volume.onOutput((part) => (said = Buffer.concat([said, part])));
  await volume.write(Buffer.from("GET / HTTP/1.1\r\n\r\n"));
  await volume.ended;
  expect(said.subarray(16).toString()).toContain("the other end speaks version");
});
