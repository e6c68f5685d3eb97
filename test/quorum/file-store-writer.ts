/**
 * Writes records as fast as it can until it is killed, or kills itself with -9 at its Nth operation on the disk, in the
 * middle of it where an operation has a middle. Says each acknowledged change in one line before it goes on.
 *
 *   node test/quorum/file-store-writer.ts DIRECTORY [N]
 */
import { writeSync } from "node:fs";
import { FileStore } from "../../src/quorum/file-store.ts";
import type { StoreFiles } from "../../src/quorum/store-files.ts";
import { aRecord } from "./records.ts";

const [directory = "", killAt = "Infinity"] = process.argv.slice(2);
let left = Number(killAt);

function isLast(): boolean {
  left -= 1;
  return left < 0;
}

function die(): never {
  process.kill(process.pid, "SIGKILL");
  throw new Error("still alive");
}

function wrap(files: StoreFiles): StoreFiles {
  const step = <T>(act: () => Promise<T>): Promise<T> => (isLast() ? die() : act());
  return {
    list: () => files.list(),
    read: (name) => files.read(name),
    remove: (name) => step(() => files.remove(name)),
    rename: (from, to) => step(() => files.rename(from, to)),
    syncDirectory: () => step(() => files.syncDirectory()),
    write: async (name, bytes) => {
      if (isLast()) {
        await files.write(name, bytes.subarray(0, bytes.length / 2));
        die();
      }
      const file = await files.write(name, bytes);
      return { sync: () => step(() => file.sync()), close: () => step(() => file.close()) };
    },
  };
}

async function writeOn(store: FileStore, guest: string): Promise<void> {
  for (;;) {
    const current = await store.read(guest);
    const version = (current?.record.version ?? 0) + 1;
    const outcome = await store.compareAndSet(guest, current?.revision, aRecord({ guest, version }));
    if (outcome.tag !== "stored") {
      throw new Error(`${guest}: ${outcome.tag}`);
    }
    writeSync(1, `${guest} ${version}\n`);
  }
}

const store = await FileStore.open(directory, { wrap });
writeSync(1, "open\n");
await Promise.all(["one", "two", "three"].map((guest) => writeOn(store, guest)));
