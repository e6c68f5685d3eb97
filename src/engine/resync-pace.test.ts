import { expect, test } from "@jest/globals";
import { type CopiedPiece, freshPace, notePiece } from "./resync-pace.ts";

const MIB = 2 ** 20;

/** How many bytes pass in `ms` when a piece takes `pieceMs` to copy. */
function copyFor(ms: number, pieceMs: number, piece: Omit<CopiedPiece, "bytes">): number {
  let bytes = 0;
  let pace = freshPace;
  for (let nowMs = 1_000_000; nowMs < 1_000_000 + ms;) {
    nowMs = Math.max(nowMs, pace.nextAtMs) + pieceMs;
    pace = notePiece(pace, { ...piece, bytes: MIB }, nowMs);
    bytes += MIB;
  }
  return bytes;
}

test("a copy keeps to its limit, whatever a piece takes", () => {
  for (const pieceMs of [0, 1, 5]) {
    const bytes = copyFor(10_000, pieceMs, { bytesPerSecondMax: 20 * MIB, hasGuestWritten: false });
    expect(bytes / MIB).toBeGreaterThanOrEqual(195);
    expect(bytes / MIB).toBeLessThanOrEqual(203);
  }
});

test("without a limit it does not wait, beside a guest that writes it takes half of the time", () => {
  const free = copyFor(1_000, 4, { bytesPerSecondMax: undefined, hasGuestWritten: false });
  expect(free / MIB).toBe(250);
  const busy = copyFor(1_000, 4, { bytesPerSecondMax: undefined, hasGuestWritten: true });
  expect(busy / MIB).toBeGreaterThanOrEqual(120);
  expect(busy / MIB).toBeLessThanOrEqual(130);
});

test("what was not used for a long time is not caught up with", () => {
  const before = notePiece(freshPace, { bytes: MIB, bytesPerSecondMax: MIB, hasGuestWritten: false }, 1_000);
  const after = notePiece(before, { bytes: MIB, bytesPerSecondMax: MIB, hasGuestWritten: false }, 60_000);
  expect(after.nextAtMs).toBeGreaterThanOrEqual(60_950);
});
