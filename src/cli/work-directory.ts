/** Where an image becomes a raw disk before it is sent, and where what was done stays for the next attempt. */
import { lstat, mkdir, rename, rm, stat, statfs } from "node:fs/promises";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { writeBytes } from "../image/image-limits.ts";
import { CliFailure } from "./cli-failure.ts";
import { type SourceDisk } from "./image-source.ts";
import { encodeNode, parseProgress, READ_MEMORY_BYTES, readSecondsMax, runQemuImg } from "./qemu-img.ts";

/** Left free on the file system. */
const SPARE_BYTES = 256 * 2 ** 20;

export type RawDisk = {
  readonly path: string;
  /** It was made here and goes when it is not needed any more. */
  readonly isOurs: boolean;
};

/** In a directory that nobody else can write to: what is found there is taken for what was made before. */
export async function openWorkDirectory(given: string | undefined): Promise<string> {
  const { uid } = userInfo();
  const path = given ?? join(tmpdir(), `twinrun-${uid}`);
  await mkdir(path, { recursive: true, mode: 0o700 });
  const found = await lstat(path);
  const isOurs = uid < 0 || (found.uid === uid && (found.mode & 0o022) === 0);
  if (!found.isDirectory() || !isOurs) {
    throw new CliFailure("Refused", `others may write to ${path}: name a directory of your own with --work-dir`);
  }
  return path;
}

export type Conversion = {
  readonly disk: SourceDisk;
  readonly directory: string;
  readonly signal: AbortSignal;
  readonly onPercent: (percent: number) => void;
};

/** The disk as a raw file: itself, where it is one; else what is left of an earlier attempt, or a new one. */
export async function provideRawDisk({ disk, directory, signal, onPercent }: Conversion): Promise<RawDisk> {
  const { place, header, identity, contentBytes } = disk;
  if (header.format === "raw" && place.part === undefined) {
    return { path: place.path, isOurs: false };
  }
  const path = join(directory, `${identity}.raw`);
  const before = await stat(path).catch(() => undefined);
  if (before?.size === header.virtualBytes) {
    return { path, isOurs: true };
  }
  const part = `${path}.part`;
  await rm(part, { force: true });
  await assertRoom(directory, contentBytes);
  await runQemuImg({
    ...{ cpuSeconds: readSecondsMax(header.virtualBytes), memoryBytes: READ_MEMORY_BYTES, signal },
    args: ["convert", "-p", "-O", "raw", "-S", "64k", encodeNode(place, header.format), part],
    onOutput: (text) => {
      const percent = parseProgress(text);
      if (percent !== undefined) {
        onPercent(percent);
      }
    },
  });
  await rename(part, path);
  return { path, isOurs: true };
}

export async function assertRoom(directory: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  if (bavail * bsize < bytes + SPARE_BYTES) {
    throw new CliFailure(
      "Refused",
      `${directory} has room for ${writeBytes(bavail * bsize)}, and the disk needs ${writeBytes(bytes + SPARE_BYTES)}: ` +
        "name another directory with --work-dir",
    );
  }
}

export async function removeRawDisk({ path, isOurs }: RawDisk): Promise<void> {
  if (isOurs) {
    await rm(path, { force: true });
  }
}
