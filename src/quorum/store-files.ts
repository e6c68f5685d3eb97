/**
 * The few operations on one directory that the file store needs, one system call each, so that tests can stand between
 * any two of them: a process killed there, or a disk that forgets what was not synced.
 */
import { open, readFile, readdir, rename, rm, type FileHandle } from "node:fs/promises";
import { join } from "node:path";

export interface WrittenFile {
  sync(): Promise<void>;
  close(): Promise<void>;
}

export interface StoreFiles {
  list(): Promise<readonly string[]>;
  read(name: string): Promise<Uint8Array>;
  /** Creates or empties the file and writes the bytes; nothing is durable before `sync`. */
  write(name: string, bytes: Uint8Array): Promise<WrittenFile>;
  rename(from: string, to: string): Promise<void>;
  /** Makes renames and removals before it durable. */
  syncDirectory(): Promise<void>;
  remove(name: string): Promise<void>;
}

/** A directory on a real disk. */
export class DirectoryFiles implements StoreFiles {
  readonly #directory: string;
  #handle: FileHandle | undefined;

  constructor(directory: string) {
    this.#directory = directory;
  }

  list(): Promise<readonly string[]> {
    return readdir(this.#directory);
  }

  read(name: string): Promise<Uint8Array> {
    return readFile(join(this.#directory, name));
  }

  async write(name: string, bytes: Uint8Array): Promise<WrittenFile> {
    const file = await open(join(this.#directory, name), "w", 0o600);
    try {
      await file.writeFile(bytes);
    } catch (error) {
      await file.close();
      throw error;
    }
    return file;
  }

  rename(from: string, to: string): Promise<void> {
    return rename(join(this.#directory, from), join(this.#directory, to));
  }

  async syncDirectory(): Promise<void> {
    this.#handle ??= await open(this.#directory, "r");
    await this.#handle.sync();
  }

  remove(name: string): Promise<void> {
    return rm(join(this.#directory, name), { force: true });
  }

  async close(): Promise<void> {
    await this.#handle?.close();
    this.#handle = undefined;
  }
}
