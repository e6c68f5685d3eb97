import { expect, test } from "@jest/globals";
import { type EngineTransition } from "../protocol/assignment.ts";
import { stepTakeover, type TakeoverTrack, type Takeover } from "./takeover-track.ts";

type Step = readonly [from: string, to: string, cause: string];

function follow(steps: readonly Step[]): readonly Takeover[] {
  let track: TakeoverTrack = null;
  return steps.flatMap(([from, to, cause], index) => {
    const transition: EngineTransition = {
      role: "standby",
      from,
      to,
      term: 4,
      epoch: 41,
      cause,
    };
    const step = stepTakeover(track, transition, 1_000 + index * 30);
    track = step.track;
    return step.takeover === undefined ? [] : [step.takeover];
  });
}

test.each<{
  when: string;
  steps: Step[];
  cause: string | undefined;
  durationMs?: number;
}>([
  {
    when: "the primary's QEMU died",
    steps: [
      ["holding", "asking", "received"],
      ["asking", "activating", "quorumAnswered"],
      ["activating", "alone", "activated"],
    ],
    cause: "the primary's QEMU died",
    durationMs: 60,
  },
  {
    when: "every link went silent",
    steps: [
      ["holding", "asking", "timerFired"],
      ["asking", "activating", "quorumAnswered"],
      ["activating", "alone", "activated"],
    ],
    cause: "the primary fell silent",
    durationMs: 60,
  },
  {
    when: "it was handed over",
    steps: [
      ["holding", "activating", "received"],
      ["activating", "alone", "activated"],
    ],
    cause: "handed over as planned",
    durationMs: 30,
  },
  {
    when: "the primary was faster",
    steps: [
      ["holding", "asking", "timerFired"],
      ["asking", "holding", "quorumAnswered"],
    ],
    cause: undefined,
  },
  {
    when: "the load failed",
    steps: [
      ["holding", "activating", "received"],
      ["activating", "ended", "activateFailed"],
    ],
    cause: undefined,
  },
  {
    when: "a primary goes alone for want of a standby",
    steps: [["arbitrating", "alone", "quorumAnswered"]],
    cause: undefined,
  },
])("$when", ({ steps, cause, durationMs }) => {
  expect(follow(steps)).toEqual(cause === undefined ? [] : [{ cause, durationMs, term: 4, epoch: 41 }]);
});
