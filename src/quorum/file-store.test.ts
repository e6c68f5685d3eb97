import { afterEach, describe, expect, test } from "@jest/globals";
import { spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FakeDisk, PowerLost } from "../../test/quorum/fake-disk.ts";
import { aRecord } from "../../test/quorum/records.ts";
import { Random } from "../lib/random.ts";
import { FileStore } from "./file-store.ts";
import { StoreFailure, type SetOutcome } from "./record-store.ts";
import type { StoreFiles } from "./store-files.ts";

const directories: string[] = [];
const stores: FileStore[] = [];

afterEach(async () => {
  await Promise.all(stores.splice(0).map((store) => store.close()));
  await Promise.all(directories.splice(0).map((directory) => rm(directory, { recursive: true, force: true })));
});

async function newDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "file-store-"));
  directories.push(directory);
  return directory;
}

async function open(directory: string, wrap?: (files: StoreFiles) => StoreFiles): Promise<FileStore> {
  const store = await FileStore.open(directory, { wrap });
  stores.push(store);
  return store;
}

const codeOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no failure",
    (error: unknown) => (error instanceof StoreFailure ? error.detail.code : String(error)),
  );

/** Runs the writer; resolves with the last acknowledged version of each guest once it is dead. */
async function runWriter(directory: string, killAt: number, killAfterMs?: number): Promise<Map<string, number>> {
  const script = new URL("../../test/quorum/file-store-writer.ts", import.meta.url).pathname;
  const child = spawn(process.execPath, [script, directory, String(killAt)], { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  let complaint = "";
  child.stderr.on("data", (chunk: Buffer) => (complaint += chunk.toString()));
  child.stdout.on("data", (chunk: Buffer) => {
    if (said === "" && killAfterMs !== undefined) {
      setTimeout(() => child.kill("SIGKILL"), killAfterMs);
    }
    said += chunk.toString();
  });
  const signal = await new Promise((resolve) => child.once("close", (_code, name) => { resolve(name); })); // prettier-ignore
  if (signal !== "SIGKILL") {
    throw new Error(`the writer was not killed but said: ${complaint}`);
  }
  const versions = new Map<string, number>();
  for (const line of said.split("\n").slice(0, -1)) {
    const [guest = "", version = "0"] = line.split(" ");
    versions.set(guest, Number(version));
  }
  versions.delete("open");
  return versions;
}

/** Each guest's record is whole, and not older than what was acknowledged, nor newer than the one under way. */
async function expectKept(directory: string, acknowledged: Map<string, number>): Promise<void> {
  const store = await FileStore.open(directory);
  for (const guest of ["one", "two", "three"]) {
    const stored = await store.read(guest);
    const version = stored?.record.version ?? 0;
    expect({ guest, revision: Number(stored?.revision ?? 0) }).toEqual({ guest, revision: version });
    expect(version).toBeGreaterThanOrEqual(acknowledged.get(guest) ?? 0);
    if (stored !== undefined) {
      expect(stored.record).toEqual(aRecord({ guest, version }));
    }
  }
  await store.close();
  expect((await readdir(directory)).filter((name) => name.endsWith(".new"))).toEqual([]);
}

describe("a killed process", () => {
  test("at every operation on the disk: whatever was acknowledged is there, and nothing is torn", async () => {
    const directory = await newDirectory();
    const seen = new Map<string, number>();
    for (let killAt = 0; killAt < 16; killAt += 1) {
      for (const [guest, version] of await runWriter(directory, killAt)) {
        expect(version).toBeGreaterThan(seen.get(guest) ?? 0);
        seen.set(guest, version);
      }
      await expectKept(directory, seen);
    }
    expect(seen.size).toBe(3);
  }, 30_000);

  test("at random: the same", async () => {
    const directory = await newDirectory();
    const random = new Random(20_261_124);
    const seen = new Map<string, number>();
    // At least so often, and until there was something to lose: how much is written in between is the disk's affair.
    for (let kill = 0; kill < 6 || seen.size < 3 || Math.min(...seen.values()) <= 10; kill += 1) {
      const versions = await runWriter(directory, Infinity, random.fraction() * 80);
      versions.forEach((version, guest) => seen.set(guest, version));
      await expectKept(directory, seen);
    }
  }, 60_000);
});

describe("a disk that loses power", () => {
  /** Writes until the power goes at the given step; returns the acknowledged versions. */
  async function writeUntilPowerLoss(disk: FakeDisk, random: Random, steps: number): Promise<Map<string, number>> {
    let left = steps;
    disk.beforeStep = () => {
      left -= 1;
      if (left < 0) {
        throw new PowerLost("the power is gone");
      }
    };
    const acknowledged = new Map<string, number>();
    try {
      const store = await FileStore.load(disk);
      const writers = ["one", "two", "three"].map(async (guest) => {
        for (let outcome: SetOutcome["tag"] = "stored"; outcome === "stored";) {
          const current = await store.read(guest);
          const version = (current?.record.version ?? 0) + 1;
          ({ tag: outcome } = await store.compareAndSet(guest, current?.revision, aRecord({ guest, version })));
          if (outcome === "stored") {
            acknowledged.set(guest, version);
          }
        }
      });
      await Promise.allSettled(writers);
    } catch {
      // The power went before the store was open.
    }
    disk.beforeStep = () => undefined;
    disk.losePower(random);
    return acknowledged;
  }

  /** Sum of the versions that are there; throws when one is older than what is in `newest`, which is brought up to date. */
  async function countSurvivors(store: FileStore, newest: Map<string, number>, seed: number): Promise<number> {
    let survivors = 0;
    for (const guest of ["one", "two", "three"]) {
      const version = (await store.read(guest))?.record.version ?? 0;
      const least = newest.get(guest) ?? 0;
      if (version < least) {
        throw new Error(`seed ${seed}: ${guest} has version ${version}, but ${least} was there`);
      }
      newest.set(guest, version);
      survivors += version;
    }
    return survivors;
  }

  test("at any step, whatever part of the unsynced survives: no acknowledged change is lost, no record torn", async () => {
    let survivors = 0;
    for (let seed = 1; seed <= 400; seed += 1) {
      const random = new Random(seed);
      const disk = new FakeDisk();
      const newest = new Map<string, number>();
      for (let life = 0; life < 4; life += 1) {
        const acknowledged = await writeUntilPowerLoss(disk, random, random.below(60));
        acknowledged.forEach((version, guest) => newest.set(guest, version));
        survivors += await countSurvivors(await FileStore.load(disk), newest, seed);
      }
    }
    expect(survivors).toBeGreaterThan(1_000);
  }, 30_000);

  test("the check can fail: a disk whose sync does nothing loses acknowledged changes", async () => {
    let losses = 0;
    for (let seed = 1; seed <= 40; seed += 1) {
      const random = new Random(seed);
      const disk = new FakeDisk();
      const { write } = disk;
      disk.write = async (name, bytes) => ({ ...(await write.call(disk, name, bytes)), sync: () => Promise.resolve() });
      const acknowledged = await writeUntilPowerLoss(disk, random, 30);
      const store = await FileStore.load(disk);
      for (const [guest, version] of acknowledged) {
        const stored = await store.read(guest).catch(() => undefined);
        losses += (stored?.record.version ?? 0) < version ? 1 : 0;
      }
    }
    expect(losses).toBeGreaterThan(0);
  });
});

describe("a disk that fails", () => {
  test("no space: not stored, said so, and the next try works", async () => {
    const disk = new FakeDisk();
    const store = await FileStore.load(disk);
    await store.compareAndSet("guest", undefined, aRecord());
    disk.beforeStep = (step) => {
      if (step === "sync") {
        throw new Error("ENOSPC");
      }
    };
    expect(await codeOf(store.compareAndSet("guest", "1", aRecord({ version: 2 })))).toBe("StoreUnavailable");
    expect((await store.read("guest"))?.record.version).toBe(1);
    disk.beforeStep = () => undefined;
    expect(await store.compareAndSet("guest", "1", aRecord({ version: 2 }))).toEqual({ tag: "stored", revision: "2" });
  });

  test.each(["rename", "syncDirectory"])(
    "%s fails: unknown, and then nothing is served until a new start",
    async (failing) => {
      const disk = new FakeDisk();
      let broken = "";
      const store = await FileStore.load(disk, { onBroken: (failure) => (broken = failure.detail.code) });
      disk.beforeStep = (step) => {
        if (step === failing) {
          throw new Error("EIO");
        }
      };
      expect(await store.compareAndSet("guest", undefined, aRecord())).toMatchObject({ tag: "unknown" });
      disk.beforeStep = () => undefined;
      expect(await codeOf(store.read("guest"))).toBe("StoreUnavailable");
      expect(await codeOf(store.compareAndSet("guest", undefined, aRecord()))).toBe("StoreUnavailable");
      expect(broken).toBe("StoreUnavailable");
    },
  );

  test("a damaged file stops its own guest only, and is not overwritten", async () => {
    const directory = await newDirectory();
    const first = await FileStore.open(directory);
    await first.compareAndSet("ns/guest", undefined, aRecord({ guest: "ns/guest" }));
    await first.compareAndSet("other", undefined, aRecord({ guest: "other" }));
    await first.close();
    const path = join(directory, "ns%2Fguest.record");
    const text = (await readFile(path, "utf8")).replace('"owner":"a"', '"owner":"x"');
    await writeFile(path, text);
    const store = await open(directory);
    expect(await codeOf(store.read("ns/guest"))).toBe("RecordDamaged");
    expect(await codeOf(store.compareAndSet("ns/guest", undefined, aRecord()))).toBe("RecordDamaged");
    expect((await store.read("other"))?.record.owner).toBe("a");
    expect(await readFile(path, "utf8")).toBe(text);
  });
});

describe("one process at a time", () => {
  test("a second one is refused, in this process and in another, until the first is dead", async () => {
    const directory = await newDirectory();
    const store = await FileStore.open(directory);
    expect(await codeOf(FileStore.open(directory))).toBe("StoreLocked");
    await expect(runWriter(directory, Infinity)).rejects.toThrow("in use by another quorum process");
    await store.close();
    const writing = runWriter(directory, Infinity, 300);
    await new Promise((resolve) => setTimeout(resolve, 250));
    await writing;
    expect(await codeOf(open(directory))).toBe("no failure");
  });
});

test("changes that wait share one sync of the directory", async () => {
  const disk = new FakeDisk();
  const store = await FileStore.load(disk);
  let syncs = 0;
  disk.beforeStep = (step) => (syncs += step === "syncDirectory" ? 1 : 0);
  const guests = Array.from({ length: 50 }, (_, index) => `guest-${index}`);
  const outcomes = await Promise.all(guests.map((guest) => store.compareAndSet(guest, undefined, aRecord({ guest }))));
  expect(new Set(outcomes.map(({ tag }) => tag))).toEqual(new Set(["stored"]));
  expect(syncs).toBeLessThanOrEqual(2);
});
