/** A raw disk in a file or on a block device, read and written by blocks. */
import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";

export class RawVolume {
  readonly #file: FileHandle;
  /** What there is of it now; that of a device never changes. */
  readonly bytes: number;
  /** What its file takes up; that of a device is not known and counts as all of it. */
  readonly allocatedBytes: number;

  private constructor(file: FileHandle, bytes: number, allocatedBytes: number) {
    this.#file = file;
    this.bytes = bytes;
    this.allocatedBytes = allocatedBytes;
  }

  /** Makes the file where there is none, and at least `bytesMin` long; a device has to be that long. */
  static async open(path: string, access: "read" | "write", bytesMin: number): Promise<RawVolume> {
    const file = await open(path, access === "read" ? "r" : "r+").catch(async (cause: unknown) => {
      if (access === "read" || (cause as NodeJS.ErrnoException).code !== "ENOENT") {
        throw cause;
      }
      return open(path, "wx+", 0o660);
    });
    try {
      const stat = await file.stat();
      if (!stat.isFile()) {
        const bytes = await findDeviceBytes(file);
        if (bytes < bytesMin) {
          throw new Error(`the volume has ${bytes} bytes, and the disk ${bytesMin}; give it more with --size`);
        }
        return new RawVolume(file, bytes, bytes);
      }
      if (stat.size < bytesMin) {
        await file.truncate(bytesMin);
      }
      return new RawVolume(file, Math.max(stat.size, bytesMin), stat.blocks * 512);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Fewer bytes at the end, none behind it. */
  async read(offset: number, bytes: number): Promise<Buffer> {
    const buffer = Buffer.allocUnsafe(Math.max(0, Math.min(bytes, this.bytes - offset)));
    let at = 0;
    while (at < buffer.length) {
      const { bytesRead } = await this.#file.read(buffer, at, buffer.length - at, offset + at);
      if (bytesRead === 0) {
        throw new Error(`the volume ends at ${offset + at}, and was ${this.bytes} bytes long before`);
      }
      at += bytesRead;
    }
    return buffer;
  }

  async hash(offset: number, bytes: number): Promise<Buffer> {
    return createHash("sha256")
      .update(await this.read(offset, bytes))
      .digest();
  }

  async write(offset: number, content: Uint8Array): Promise<void> {
    if (offset + content.length > this.bytes) {
      throw new Error(`${offset + content.length} is behind the end of the volume, ${this.bytes}`);
    }
    let at = 0;
    while (at < content.length) {
      at += (await this.#file.write(content, at, content.length - at, offset + at)).bytesWritten;
    }
  }

  flush(): Promise<void> {
    return this.#file.sync();
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

/** Its length stands nowhere that Node reads: found by reading a sector here and there. */
async function findDeviceBytes(file: FileHandle): Promise<number> {
  const sector = Buffer.alloc(512);
  const isThere = async (number: number): Promise<boolean> =>
    (await file.read(sector, 0, 512, number * 512)).bytesRead === 512;
  let [low, high] = [0, 1];
  while (await isThere(high)) {
    [low, high] = [high, high * 2];
  }
  while (high - low > 1) {
    const middle = low + Math.floor((high - low) / 2);
    [low, high] = (await isThere(middle)) ? [middle, high] : [low, middle];
  }
  return (low + 1) * 512;
}
