/**
 * Holes of disk images and of guest memory files: which parts hold data, and giving parts back.
 *
 * A file system that does not know holes reports everything as data, so the answers are always safe to copy by. So does a block
 * device: it answers EINVAL to the question and counts as data throughout.
 */
import { constants } from "node:os";
import { check, fallocate, lseek, readErrno } from "./libc.ts";

const SEEK_DATA = 3;
const SEEK_HOLE = 4;

export type Extent = { readonly from: number; readonly to: number };

/** The parts of [from, to) that may hold something else than zeros, ascending. Moves the descriptor's file position. */
export function listDataExtents(fd: number, from: number, to: number): readonly Extent[] {
  const extents: Extent[] = [];
  let at = from;
  while (at < to) {
    // SAFETY: integers only, here and below.
    const data = lseek(fd, at, SEEK_DATA);
    if (data < 0) {
      if (readErrno() !== constants.errno.ENXIO) {
        extents.push({ from: at, to });
      }
      return extents;
    }
    if (data >= to) {
      return extents;
    }
    const hole = lseek(fd, data, SEEK_HOLE);
    const end = hole <= data ? to : Math.min(hole, to); // Some devices answer 0 to every question.
    extents.push({ from: Math.max(data, at), to: end });
    at = end;
  }
  return extents;
}

/** Makes [offset, offset + length) zeros that take no room. Throws where the file system or device cannot. */
export function applyHole(fd: number, offset: number, length: number): void {
  const KEEP_SIZE_AND_PUNCH_HOLE = 3;
  // SAFETY: integers only.
  check(fallocate(fd, KEEP_SIZE_AND_PUNCH_HOLE, offset, length), "fallocate", "write zeros instead");
}
