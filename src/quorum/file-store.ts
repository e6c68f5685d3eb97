/**
 * Records in one directory, for a quorum on a single third-site computer.
 *
 * Format: one file a guest, `GUEST.record` (GUEST percent-encoded), of two lines:
 *
 *   twinrun-quorum-record 1 SHA256-OF-THE-SECOND-LINE-IN-HEX
 *   {"revision":7,"record":{...}}
 *
 * A change is written to `GUEST.record.new`, synced, renamed over the old file, and the directory is synced; only then
 * is it in memory, readable and answered. So whatever instruction a kill -9 or a power cut hits, the file holds the
 * old record or the new one, and every answered one is there. Left-over `.new` files are removed at the next start.
 *
 * Changes that wait while a sync is under way are carried out together and share the directory's sync: when a host dies,
 * all its guests ask at once. A sync or rename that fails leaves the state of the disk unknown (the kernel may have dropped the
 * pages, and a second sync would lie), so the store then serves nothing any more; the process has to be started anew.
 *
 * A record whose checksum is wrong is reported whenever its guest is asked for, and stops nobody else's.
 */
import { createHash } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { parseQuorumRecord } from "../net/quorum-wire.ts";
import type { QuorumRecord } from "../protocol/quorum-record.ts";
import { openProcessLock } from "./process-lock.ts";
import { StoreFailure, type RecordStore, type SetOutcome, type StoredRecord } from "./record-store.ts";
import { DirectoryFiles, type StoreFiles } from "./store-files.ts";

const MAGIC = "twinrun-quorum-record 1 ";
const SUFFIX = ".record";
const NEW_SUFFIX = ".record.new";

type Change = {
  readonly guest: string;
  readonly expectedRevision: string | undefined;
  readonly record: QuorumRecord;
  readonly answer: (outcome: SetOutcome) => void;
  readonly fail: (failure: StoreFailure) => void;
};
type Removal = {
  readonly guest: string;
  readonly done: () => void;
  readonly fail: (failure: StoreFailure) => void;
};
type Entry = StoredRecord | { readonly damaged: StoreFailure };

export type FileStoreOptions = {
  /** For tests that stand between the store and its disk. */
  readonly wrap?: ((files: StoreFiles) => StoreFiles) | undefined;
  /** The store serves nothing any more; the process should end once its answers are out. */
  readonly onBroken?: ((failure: StoreFailure) => void) | undefined;
};
type LoadOptions = FileStoreOptions & { readonly onClose?: (() => Promise<void>) | undefined };

export class FileStore implements RecordStore {
  readonly #files: StoreFiles;
  readonly #options: LoadOptions;
  readonly #entries: Map<string, Entry>;
  #changes: Change[] = [];
  #removals: Removal[] = [];
  #writing: Promise<void> | undefined;
  #broken: StoreFailure | undefined;

  private constructor(files: StoreFiles, entries: Map<string, Entry>, options: LoadOptions) {
    this.#files = files;
    this.#entries = entries;
    this.#options = options;
  }

  /** Takes the directory's lock, or throws a {@link StoreFailure}. */
  static async open(directory: string, options: FileStoreOptions = {}): Promise<FileStore> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const unlock = openProcessLock(directory);
    const files = new DirectoryFiles(directory);
    const close = async (): Promise<void> => {
      await files.close();
      unlock();
    };
    try {
      return await FileStore.load(options.wrap?.(files) ?? files, { ...options, onClose: close });
    } catch (error) {
      await close();
      throw error;
    }
  }

  /** For files that are already ours. */
  static async load(files: StoreFiles, options: LoadOptions = {}): Promise<FileStore> {
    const entries = new Map<string, Entry>();
    for (const name of await files.list()) {
      if (name.endsWith(NEW_SUFFIX)) {
        await files.remove(name);
      } else if (name.endsWith(SUFFIX)) {
        entries.set(decodeGuest(name), decodeFile(name, await files.read(name)));
      }
    }
    // What an earlier process renamed but did not live to sync must not be shown before it is durable.
    await files.syncDirectory();
    return new FileStore(files, entries, options);
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- what #current throws has to become a rejection.
  async read(guest: string): Promise<StoredRecord | undefined> {
    return this.#current(guest);
  }

  compareAndSet(guest: string, expectedRevision: string | undefined, record: QuorumRecord): Promise<SetOutcome> {
    return new Promise((answer, fail) => {
      this.#changes.push({ guest, expectedRevision, record, answer, fail });
      this.#writing ??= this.#writeAll();
    });
  }

  remove(guest: string): Promise<void> {
    return new Promise((done, fail) => {
      this.#removals.push({ guest, done, fail });
      this.#writing ??= this.#writeAll();
    });
  }

  /** After the changes under way. */
  async close(): Promise<void> {
    await this.#writing;
    this.#broken = unavailable("the store is closed");
    await this.#options.onClose?.();
  }

  #current(guest: string): StoredRecord | undefined {
    if (this.#broken !== undefined) {
      throw this.#broken;
    }
    const entry = this.#entries.get(guest);
    if (entry !== undefined && "damaged" in entry) {
      throw entry.damaged;
    }
    return entry;
  }

  async #writeAll(): Promise<void> {
    while (this.#changes.length > 0 || this.#removals.length > 0) {
      await this.#removeAll();
      const waiting = this.#changes;
      this.#changes = [];
      const guests = new Set<string>();
      const batch: Change[] = [];
      for (const change of waiting) {
        // A second change of one guest has to see the first one's revision.
        if (guests.has(change.guest)) {
          this.#changes.push(change);
        } else {
          guests.add(change.guest);
          batch.push(change);
        }
      }
      await this.#write(batch.filter((change) => this.#isDue(change)));
    }
    this.#writing = undefined;
  }

  /** Answers a change that conflicts; true when it has to be written. */
  #isDue({ guest, expectedRevision, answer, fail }: Change): boolean {
    try {
      const current = this.#current(guest);
      if (current?.revision === expectedRevision) {
        return true;
      }
      answer({ tag: "conflict", current });
    } catch (error) {
      fail(error as StoreFailure);
    }
    return false;
  }

  async #write(changes: readonly Change[]): Promise<void> {
    const written = await Promise.all(
      changes.map(async (change) => ((await this.#writeNew(change)) ? change : undefined)),
    );
    const due = written.filter((change) => change !== undefined);
    if (due.length === 0) {
      return;
    }
    try {
      for (const { guest } of due) {
        await this.#files.rename(fileName(guest, NEW_SUFFIX), fileName(guest, SUFFIX));
      }
      await this.#files.syncDirectory();
    } catch (error) {
      const why = `the disk failed while a record was made durable (${String(error)})`;
      for (const { answer } of due) {
        answer({ tag: "unknown", why });
      }
      this.#break(why, error);
      return;
    }
    for (const { guest, record, expectedRevision, answer } of due) {
      const revision = nextRevision(expectedRevision);
      this.#entries.set(guest, { record, revision });
      answer({ tag: "stored", revision });
    }
  }

  async #removeAll(): Promise<void> {
    const removals = this.#removals.splice(0);
    if (removals.length === 0) {
      return;
    }
    try {
      this.#current(""); // Throws when the store is broken.
      for (const { guest } of removals) {
        await this.#files.remove(fileName(guest, SUFFIX));
        this.#entries.delete(guest);
      }
      await this.#files.syncDirectory();
      removals.forEach(({ done }) => {
        done();
      });
    } catch (error) {
      const failure =
        this.#broken ?? this.#break(`the disk failed while a record was removed (${String(error)})`, error);
      removals.forEach(({ fail }) => {
        fail(failure);
      });
    }
  }

  #break(why: string, error: unknown): StoreFailure {
    const failure = unavailable(`${why}; start the quorum anew once the disk is well`, error);
    this.#broken = failure;
    this.#options.onBroken?.(failure);
    return failure;
  }

  /** False, and answered, when the file could not be written: then nothing has changed. */
  async #writeNew({ guest, record, expectedRevision, fail }: Change): Promise<boolean> {
    try {
      const bytes = encodeFile({ record, revision: nextRevision(expectedRevision) });
      const file = await this.#files.write(fileName(guest, NEW_SUFFIX), bytes);
      try {
        await file.sync();
      } finally {
        await file.close();
      }
      return true;
    } catch (error) {
      fail(
        unavailable(`the record of ${guest} cannot be written (${String(error)}): free space or mend the disk`, error),
      );
      return false;
    }
  }
}

function nextRevision(expected: string | undefined): string {
  return String(Number(expected ?? "0") + 1);
}

function fileName(guest: string, suffix: string): string {
  return encodeURIComponent(guest) + suffix;
}

/** A file somebody else put here belongs to no guest that anybody could ask for. */
function decodeGuest(name: string): string {
  try {
    return decodeURIComponent(name.slice(0, -SUFFIX.length));
  } catch {
    return name;
  }
}

function checksum(line: string): string {
  return createHash("sha256").update(line).digest("hex");
}

function encodeFile({ record, revision }: StoredRecord): Uint8Array {
  const line = JSON.stringify({ revision: Number(revision), record });
  return Buffer.from(`${MAGIC}${checksum(line)}\n${line}\n`);
}

function decodeFile(name: string, bytes: Uint8Array): Entry {
  const [head = "", line = "", ...rest] = Buffer.from(bytes).toString("utf8").split("\n");
  try {
    if (head !== MAGIC + checksum(line) || rest.length !== 1 || rest[0] !== "") {
      throw new Error("its checksum is wrong");
    }
    const { revision, record } = JSON.parse(line) as { revision: number; record: unknown };
    return { revision: String(revision), record: parseQuorumRecord(record) };
  } catch (error) {
    const says = `${name} is damaged (${String(error)}): find out which node runs the guest, restore the file from a backup or remove it, and start the quorum anew`;
    return { damaged: new StoreFailure({ code: "RecordDamaged", where: name }, says, { cause: error }) };
  }
}

function unavailable(why: string, cause?: unknown): StoreFailure {
  return new StoreFailure({ code: "StoreUnavailable", why }, why, { cause });
}
