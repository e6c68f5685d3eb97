/**
 * Follows the changes of state of a side to tell how it took its guest over: why, and how long that took from the moment in
 * which it noticed until the guest ran. What came before, a silence that has to last, is not in it.
 */
import { type EngineTransition } from "../protocol/assignment.ts";

export type TakeoverTrack = {
  readonly cause: string;
  readonly sinceMs: number;
} | null;

export type Takeover = {
  readonly cause: string;
  readonly durationMs: number;
  readonly term: number;
  readonly epoch: number;
};

export type TrackStep = {
  readonly track: TakeoverTrack;
  readonly takeover?: Takeover;
};

/** Why a side that was asked to took over: nothing had failed. */
export const PLANNED = "handed over as planned";

export function stepTakeover(track: TakeoverTrack, transition: EngineTransition, nowMs: number): TrackStep {
  const { from, to, term, epoch } = transition;
  if (to === "asking" || (to === "activating" && from === "holding")) {
    // Asking again is the same takeover.
    return { track: track ?? { cause: sayCause(transition), sinceMs: nowMs } };
  }
  if (to === "activating") {
    return { track };
  }
  if (from === "activating" && track !== null && to === "alone") {
    const durationMs = Math.round(nowMs - track.sinceMs);
    return {
      track: null,
      takeover: { cause: track.cause, durationMs, term, epoch },
    };
  }
  return { track: null };
}

function sayCause({ to, cause }: EngineTransition): string {
  if (to === "activating") {
    return PLANNED;
  }
  return cause === "received" ? "the primary's QEMU died" : "the primary fell silent";
}
