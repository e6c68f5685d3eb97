import { expect, test } from "@jest/globals";
import fc from "fast-check";
import {
  freshLinkPace,
  freshLinkUse,
  isHeldToShare,
  isWithinShare,
  LIMITED_EPOCH_MS_MAX,
  noteSent,
  noteUse,
  pieceBytesOf,
  planPiece,
} from "./link-pace.ts";

const MIB = 2 ** 20;

/** Sends an epoch piece by piece from `startedAtMs` on; when the last piece left, and the pace after it. */
function sendEpoch(totalBytes: number, bytesPerSecond: number, startedAtMs: number, pace = freshLinkPace) {
  const pieceBytes = pieceBytesOf(bytesPerSecond);
  let nowMs = startedAtMs;
  for (let sentBytes = 0; sentBytes < totalBytes; sentBytes += pieceBytes) {
    nowMs = Math.max(nowMs, planPiece(pace, { startedAtMs, sentBytes, totalBytes }));
    pace = noteSent(pace, Math.min(pieceBytes, totalBytes - sentBytes), bytesPerSecond, nowMs);
  }
  return { leftAtMs: nowMs, pace };
}

test("what was not used for a while may go in one go, more takes the time that the share asks for", () => {
  expect(isWithinShare(freshLinkPace, 4 * MIB, 40 * MIB, 1_000)).toBe(true);
  expect(isWithinShare(freshLinkPace, 5 * MIB, 40 * MIB, 1_000)).toBe(false);
  expect(sendEpoch(4 * MIB, 40 * MIB, 1_000).leftAtMs).toBe(1_000);
  const { leftAtMs, pace } = sendEpoch(40 * MIB, 40 * MIB, 1_000);
  expect(leftAtMs).toBeGreaterThan(1_890);
  expect(leftAtMs).toBeLessThan(1_900);
  expect(pace.nextAtMs).toBeCloseTo(1_900);
});

test("without a share nothing waits, and nothing is owed when there is one later", () => {
  const { pace } = sendEpoch(400 * MIB, 40 * MIB, 1_000);
  expect(noteSent(pace, 400 * MIB, undefined, 2_000)).toEqual(freshLinkPace);
});

test("what went out beyond the share is paid for, but not for long", () => {
  const pace = noteSent(freshLinkPace, 10 * MIB, 40 * MIB, 1_000);
  expect(pace.nextAtMs).toBeCloseTo(1_150);
  expect(noteSent(pace, 4_000 * MIB, 40 * MIB, 1_000).nextAtMs).toBe(2_000);
});

test("over any ten seconds an engine sends no more than its share and a burst, and any epoch leaves in time", () => {
  const epochs = fc.array(
    fc.record({
      bytes: fc.integer({ min: 1, max: 50 * MIB }),
      restMs: fc.nat(200),
    }),
    {
      minLength: 5,
      maxLength: 30,
    },
  );
  fc.assert(
    fc.property(epochs, fc.integer({ min: 10, max: 200 }), (all, share) => {
      let [nowMs, bytesCount, pace] = [1_000, 0, freshLinkPace];
      for (const { bytes, restMs } of all) {
        const sent = sendEpoch(bytes, share * MIB, nowMs, pace);
        expect(sent.leftAtMs - nowMs).toBeLessThanOrEqual(LIMITED_EPOCH_MS_MAX);
        bytesCount += bytes;
        pace = sent.pace;
        nowMs = sent.leftAtMs + restMs;
      }
      const allowedMs = nowMs - 1_000 + 100 + 5 + (64 * 1024 * 1_000) / (share * MIB);
      expect(bytesCount).toBeLessThanOrEqual((share * MIB * allowedMs) / 1_000 + 1);
    }),
  );
});

test("an epoch that the share has no time for leaves all the same", () => {
  expect(sendEpoch(4_096 * MIB, 10 * MIB, 1_000).leftAtMs).toBeLessThanOrEqual(1_000 + LIMITED_EPOCH_MS_MAX);
  expect(sendEpoch(90 * MIB, 10 * MIB, 1_000).leftAtMs).toBeCloseTo(9_900, -2);
});

test.each<{ when: string; mibEach: number; hasWaited: boolean; isHeld: boolean }>([
  { when: "it uses up its share, and waits", mibEach: 4, hasWaited: true, isHeld: true },
  { when: "it waits for one large epoch in a while", mibEach: 2, hasWaited: true, isHeld: false },
  { when: "it uses its share and never waits", mibEach: 4, hasWaited: false, isHeld: false },
])("a guest of 40 MiB/s is held to its share: $when: $isHeld", ({ mibEach, hasWaited, isHeld }) => {
  let use = freshLinkUse;
  for (let nowMs = 100; nowMs <= 10_000; nowMs += 100) {
    use = noteUse(use, { bytes: mibEach * MIB, hasWaited }, 40 * MIB, nowMs);
  }
  expect(isHeldToShare(use, 10_000)).toBe(isHeld);
  expect(isHeldToShare(use, 21_000)).toBe(false);
  expect(isHeldToShare(noteUse(use, { bytes: 0, hasWaited: true }, undefined, 10_000), 10_000)).toBe(false);
});
