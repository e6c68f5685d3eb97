/**
 * A disk in memory that can lose its power: what was not synced is then lost, kept, or half kept, as the seed decides.
 *
 * Contents of a file are safe after `sync` of that file; names (creation, rename, removal) after `syncDirectory`. Before
 * that each single one of them may survive or not: more than any real file system dares, so no luck of ext4 hides a bug.
 */
import type { Random } from "../../src/lib/random.ts";
import type { StoreFiles, WrittenFile } from "../../src/quorum/store-files.ts";

type Inode = { bytes: Uint8Array; isSynced: boolean };
type NameChange = { readonly name: string; readonly inode: Inode | undefined };

export class PowerLost extends Error {}

export class FakeDisk implements StoreFiles {
  #durable = new Map<string, Inode>();
  #visible = new Map<string, Inode>();
  #changes: NameChange[] = [];
  /** Called before every operation; may throw. */
  beforeStep: (step: string) => void = () => undefined;

  list(): Promise<readonly string[]> {
    return this.#step("list", () => [...this.#visible.keys()]);
  }

  read(name: string): Promise<Uint8Array> {
    return this.#step("read", () => this.#get(name).bytes);
  }

  async write(name: string, bytes: Uint8Array): Promise<WrittenFile> {
    const inode = await this.#step("write", () => {
      const created: Inode = this.#visible.get(name) ?? { bytes, isSynced: false };
      created.bytes = bytes;
      created.isSynced = false;
      this.#change({ name, inode: created });
      return created;
    });
    return {
      sync: () =>
        this.#step("sync", () => {
          inode.isSynced = true;
        }),
      close: () => this.#step("close", () => undefined),
    };
  }

  rename(from: string, to: string): Promise<void> {
    return this.#step("rename", () => {
      const inode = this.#get(from);
      this.#change({ name: to, inode });
      this.#change({ name: from, inode: undefined });
    });
  }

  syncDirectory(): Promise<void> {
    return this.#step("syncDirectory", () => {
      this.#durable = new Map(this.#visible);
      this.#changes = [];
    });
  }

  remove(name: string): Promise<void> {
    return this.#step("remove", () => {
      this.#change({ name, inode: undefined });
    });
  }

  /** Power off and on again. */
  losePower(random: Random): void {
    for (const { name, inode } of this.#changes) {
      if (random.chance(0.5)) {
        put(this.#durable, name, inode);
      }
    }
    const copies = new Map<Inode, Inode>();
    for (const [name, inode] of this.#durable) {
      const copy = copies.get(inode) ?? {
        bytes: inode.isSynced ? inode.bytes : tear(inode.bytes, random),
        isSynced: true,
      };
      copies.set(inode, copy);
      this.#durable.set(name, copy);
    }
    this.#visible = new Map(this.#durable);
    this.#changes = [];
  }

  async #step<T>(step: string, act: () => T): Promise<T> {
    await Promise.resolve();
    this.beforeStep(step);
    return act();
  }

  #change(change: NameChange): void {
    put(this.#visible, change.name, change.inode);
    this.#changes.push(change);
  }

  #get(name: string): Inode {
    const inode = this.#visible.get(name);
    if (inode === undefined) {
      throw new Error(`ENOENT ${name}`);
    }
    return inode;
  }
}

function put(names: Map<string, Inode>, name: string, inode: Inode | undefined): void {
  if (inode === undefined) {
    names.delete(name);
  } else {
    names.set(name, inode);
  }
}

function tear(bytes: Uint8Array, random: Random): Uint8Array {
  const torn = bytes.slice(0, random.between(0, bytes.length));
  return random.chance(0.5) ? torn.fill(0, random.below(torn.length + 1)) : torn;
}
