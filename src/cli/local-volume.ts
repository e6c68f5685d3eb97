/** A raw disk in a file of this machine, as blocks. */
import { VOLUME_BLOCK_BYTES } from "../protocol/volume-frames.ts";
import { RawVolume } from "../volume/raw-volume.ts";
import { type BlockStore } from "./block-copy.ts";

export class LocalVolume implements BlockStore {
  readonly #volume: RawVolume;

  private constructor(volume: RawVolume) {
    this.#volume = volume;
  }

  static async open(path: string, access: "read" | "write", bytesMin = 0): Promise<LocalVolume> {
    return new LocalVolume(await RawVolume.open(path, access, bytesMin));
  }

  get bytes(): number {
    return this.#volume.bytes;
  }

  get isEmpty(): boolean {
    return this.#volume.allocatedBytes === 0;
  }

  async hash(offset: number, count: number): Promise<readonly Buffer[]> {
    const hashes: Buffer[] = [];
    for (let at = offset; hashes.length < count && at < this.bytes; at += VOLUME_BLOCK_BYTES) {
      hashes.push(await this.#volume.hash(at, VOLUME_BLOCK_BYTES));
    }
    return hashes;
  }

  read(offset: number, bytes: number): Promise<Uint8Array> {
    return this.#volume.read(offset, bytes);
  }

  write(offset: number, content: Uint8Array): Promise<void> {
    return this.#volume.write(offset, content);
  }

  flush(): Promise<void> {
    return this.#volume.flush();
  }

  close(): Promise<void> {
    return this.#volume.close();
  }
}
