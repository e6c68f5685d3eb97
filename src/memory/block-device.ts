/**
 * Block devices as disks of guests: how large they are, reading past the page cache, and zeros.
 *
 * Why past the page cache: QEMU writes a device with O_DIRECT and, with io=native, asynchronously. For files the kernel throws
 * away what the page cache has of the place once more when such a write is done; for block devices it does not. What somebody
 * read into the cache while the write was under way would be read from there ever after.
 */
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { check, addressOf, fallocate, ioctl, posixFadvise, readErrno } from "./libc.ts";
import { constants as system } from "node:os";

/** What every device takes as alignment of memory, place and length, apart from its very end. */
const ALIGNMENT = 4096;
const BLKGETSIZE64 = 0x80081272;
const BLKFLSBUF = 0x1261;
const NO_ARGUMENT = new Uint8Array(8);

export type OpenedDisk = { readonly file: FileHandle; readonly bytes: number; readonly isDevice: boolean };

/** To read what a QEMU writes that runs. */
export async function openForReading(path: string): Promise<OpenedDisk> {
  const file = await open(path, "r");
  const stat = await file.stat();
  if (!stat.isBlockDevice()) {
    return { file, bytes: stat.size, isDevice: false };
  }
  await file.close();
  const direct = await open(path, constants.O_RDONLY | constants.O_DIRECT);
  return { file: direct, bytes: readDeviceBytes(direct.fd), isDevice: true };
}

/**
 * To write and read underneath a QEMU that waits. What the page cache has of a device may be older than the device; and what it
 * has of either may be all there is of a write that failed, which the kernel tells once and then takes for written.
 */
export async function openForWriting(path: string): Promise<OpenedDisk> {
  const file = await open(path, "r+");
  const stat = await file.stat();
  if (!stat.isBlockDevice()) {
    const DONT_NEED = 4;
    // SAFETY: integers only. It is advice: what has still to be written stays.
    posixFadvise(file.fd, 0, 0, DONT_NEED);
    return { file, bytes: stat.size, isDevice: false };
  }
  // SAFETY: the argument is not used.
  check(ioctl(file.fd, BLKFLSBUF, NO_ARGUMENT), "BLKFLSBUF", "run as root");
  return { file, bytes: readDeviceBytes(file.fd), isDevice: true };
}

function readDeviceBytes(fd: number): number {
  const bytes = new BigUint64Array(1);
  // SAFETY: the kernel writes 8 bytes into the array, which lives until the call returns.
  check(ioctl(fd, BLKGETSIZE64, bytes), "BLKGETSIZE64", "the path has to be a block device");
  return Number(bytes[0]);
}

/** Memory that a device may be read into. */
export function allocateAligned(bytes: number): Buffer {
  const room = Buffer.allocUnsafeSlow(bytes + ALIGNMENT);
  const start = (ALIGNMENT - Number(addressOf(room) % BigInt(ALIGNMENT))) % ALIGNMENT;
  return room.subarray(start, start + bytes);
}

/** Whether the device made the run zeros by itself, quickly; where not, zeros have to be written. */
export function tryZeroRange(fd: number, offset: number, length: number): boolean {
  const KEEP_SIZE_AND_PUNCH_HOLE = 3;
  // SAFETY: integers only.
  if (fallocate(fd, KEEP_SIZE_AND_PUNCH_HOLE, offset, length) === 0) {
    return true;
  }
  const { EOPNOTSUPP, EINVAL } = system.errno;
  if (readErrno() === EOPNOTSUPP || readErrno() === EINVAL) {
    return false;
  }
  check(-1, "fallocate", "look at the kernel's log for errors of the device");
  return false;
}
