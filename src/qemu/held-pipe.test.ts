/** The pipe against a writer that is a process of its own and, like QEMU, blocks. */
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { enlargePipe } from "../memory/libc.ts";
import { HeldPipe, PAGE_BYTES, releaseWriter } from "./held-pipe.ts";

let directory: string;
let path: string;
let pipe: HeldPipe;

/** Writes so many bytes and ends; resolves with its exit status. */
function write(bytes: number): { readonly ended: Promise<number | null>; readonly isDone: () => boolean } {
  const writer = spawn("sh", ["-c", `head -c ${bytes} /dev/zero | tr '\\0' x >"$0"`, path], { stdio: "ignore" });
  const ended = new Promise<number | null>((resolve) => writer.once("exit", resolve));
  return { ended, isDone: () => writer.exitCode !== null };
}

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "twinrun-pipe-"));
  path = join(directory, "fifo");
  writeFileSync(path, "something of a name that is taken");
  pipe = await HeldPipe.create(path, 0o600);
});

afterEach(() => {
  pipe.close();
  rmSync(directory, { recursive: true });
});

describe.each([1, PAGE_BYTES, 100_000, 3_000_000])("a writer of %i bytes", (bytes) => {
  test("is held until it is drained, again and again", async () => {
    for (let round = 0; round < 4; round++) {
      const roomBytes = pipe.fill(bytes / 2);
      expect(roomBytes).toBeLessThanOrEqual(bytes / 2);
      expect(roomBytes).toBe(round === 0 ? 0 : Math.min(Math.floor(bytes / 2 / PAGE_BYTES), 15) * PAGE_BYTES);
      const opened = pipe.opened();
      const writer = write(bytes);
      await opened;
      await sleep(30);
      expect(writer.isDone()).toBe(false);
      const target = Buffer.alloc(bytes);
      expect(await pipe.drain(target, 10_000)).toBe(bytes);
      expect(target.every((byte) => byte === 0x78)).toBe(true);
      expect(await writer.ended).toBe(0);
    }
  });
});

test("more than fits is counted, not kept", async () => {
  pipe.fill(0);
  const opened = pipe.opened();
  const writer = write(200_000);
  await opened;
  const target = Buffer.alloc(1000);
  expect(await pipe.drain(target, 10_000)).toBe(200_000);
  expect(target.every((byte) => byte === 0x78)).toBe(true);
  expect(await writer.ended).toBe(0);
});

test("a writer that does not end is given up in time", async () => {
  pipe.fill(0);
  const opened = pipe.opened();
  const writer = spawn("sh", ["-c", 'exec 3>"$0"; exec sleep 60', path], { stdio: "ignore" });
  await opened;
  await expect(pipe.drain(Buffer.alloc(10), 50)).rejects.toMatchObject({ detail: { code: "WriterTooSlow" } });
  writer.kill("SIGKILL");
});

test("waiting for a writer can be ended", async () => {
  pipe.fill(0);
  const opened = pipe.opened();
  await pipe.wake(opened);
  expect(await pipe.drain(Buffer.alloc(0), 1000)).toBe(0);
});

test("a wait for a writer is ended also when the FIFO's path has gone", async () => {
  const opened = pipe.opened();
  await sleep(20);
  unlinkSync(path);
  await pipe.wake(opened);
});

test("a writer left waiting by a dead process is let go", async () => {
  pipe.close();
  spawn("mkfifo", [path]);
  while (!existsSync(path)) {
    await sleep(5);
  }
  const marker = join(directory, "marker");
  const script = 'echo >"$1"; exec head -c 200000 /dev/zero >"$0"';
  const writer = spawn("sh", ["-c", script, path, marker], { stdio: "ignore" });
  const ended = new Promise<unknown>((resolve) =>
    writer.once("exit", (status, signal) => {
      resolve(status ?? signal);
    }),
  );
  while (!existsSync(marker) || !/ \(sh\) S /.test(readFileSync(`/proc/${writer.pid ?? -1}/stat`, "utf8"))) {
    await sleep(5);
  }
  await sleep(20);
  expect(writer.exitCode).toBeNull();
  releaseWriter(path);
  expect(await ended).not.toBe(0); // Its reader is gone again: the write fails.
  expect(existsSync(path)).toBe(false);
  releaseWriter(path); // Nothing there: nothing happens.
  pipe = await HeldPipe.create(path, 0o600);
});

test("a place that takes no FIFO is told", async () => {
  const nowhere = HeldPipe.create(join(directory, "no", "folder"), 0o600);
  await expect(nowhere).rejects.toMatchObject({ detail: { code: "FifoUnusable" } });
});

test("a pipe that can be enlarged leaves the room it is asked for", async () => {
  pipe.close();
  pipe = await HeldPipe.create(path, 0o600, enlargePipe);
  for (let round = 0; round < 3; round++) {
    const room = pipe.fill(300_000);
    expect(room).toBe(round === 0 ? 0 : Math.floor(300_000 / PAGE_BYTES) * PAGE_BYTES);
    const opened = pipe.opened();
    const writer = write(room + 1);
    await opened;
    await sleep(30);
    expect(writer.isDone()).toBe(false);
    expect(await pipe.drain(Buffer.alloc(room + 1), 10_000)).toBe(room + 1);
    expect(await writer.ended).toBe(0);
  }
});
