/** A model that finds nothing proves little: each of these breaks one rule on purpose, and the model must find it. */
import { describe, expect, test } from "@jest/globals";
import { decideQuorumRequest } from "../../src/protocol/quorum-record.ts";
import { step } from "../../src/protocol/side.ts";
import { type Effect, type Side, type SideEvent, type Step } from "../../src/protocol/side-state.ts";
import { type Configuration, runConfiguration } from "./configurations.ts";
import { productionRules, type Rules } from "./shell.ts";

const small: Configuration = {
  name: "small",
  from: "protected",
  links: 1,
  budget: { faults: 1, outputs: 1, epochs: 0, switchovers: 0, releases: 0, modes: 0 },
  faults: ["linkLost"],
};

type Broken = Partial<Configuration> & {
  readonly rule: string;
  readonly rules: Partial<Rules>;
  readonly finds: RegExp;
};

/** Production's step, then what `change` makes of it. */
const stepThen =
  (change: (done: Step, before: Side, event: SideEvent) => Step): Rules["step"] =>
  (side, event) =>
    change(step(side, event), side, event);

const withEffects = (done: Step, ...effects: readonly Effect[]): Step => ({
  ...done,
  effects: [...done.effects, ...effects],
});

/** The primary runs alone where production asks the quorum first. */
function runAloneUnasked(done: Step): Step {
  const { state } = done.side;
  if (!("role" in state) || state.tag !== "arbitrating") {
    return done;
  }
  const side: Side = { ...done.side, ask: null, timers: [], state: { role: "primary", tag: "alone", last: null } };
  return { side, effects: [...done.effects.filter(({ tag }) => tag !== "askQuorum"), { tag: "openOutput" }] };
}

const brokenRules: readonly Broken[] = [
  {
    rule: "the quorum grants a takeover to a standby that is stale",
    rules: {
      decide: (record, request) => {
        const isTakeOver = request.change.tag === "takeOver" && record !== undefined;
        return isTakeOver
          ? decideQuorumRequest({ ...record, peerState: "InSync" }, { ...request, expectedVersion: record.version })
          : decideQuorumRequest(record, request);
      },
    },
    finds: /although the record does not say so|while the record does not say|is taken back/,
  },
  {
    rule: "the quorum ignores the version a request was made on",
    budget: { ...small.budget, faults: 2 },
    faults: ["linkLost", "answerLost"],
    rules: {
      decide: (record, request) => decideQuorumRequest(record, { ...request, expectedVersion: record?.version ?? 0 }),
    },
    finds: /although the record does not say so/,
  },
  {
    rule: "output is released before its acknowledgement",
    budget: { ...small.budget, epochs: 1 },
    rules: {
      step: stepThen((done, _, event) =>
        event.tag === "captured" ? withEffects(done, { tag: "releaseOutput", throughEpoch: event.epoch }) : done,
      ),
    },
    finds: /which the standby never held/,
  },
  {
    rule: "an acknowledgement releases one epoch more than it names",
    budget: { ...small.budget, epochs: 2 },
    rules: {
      step: stepThen((done) => ({
        ...done,
        effects: done.effects.map((effect) =>
          effect.tag === "releaseOutput" ? { ...effect, throughEpoch: effect.throughEpoch + 1 } : effect,
        ),
      })),
    },
    finds: /which the standby never held/,
  },
  {
    rule: "a primary that lost its standby runs alone without asking",
    rules: { step: stepThen(runAloneUnasked) },
    finds: /although the record does not say so|while the record does not say/,
  },
  {
    rule: "a new engine takes a record that says Stale for a leave to run alone",
    from: "nothing",
    faults: ["engineCrash"],
    rules: {
      step: stepThen((done, before) =>
        before.state.tag === "starting" && done.side.record?.peerState === "Stale" ? runAloneUnasked(done) : done,
      ),
    },
    finds: /although the record does not say so|while the record does not say/,
  },
  {
    rule: "a standby claims the guest after half a copy",
    from: "nothing",
    rules: {
      step: stepThen((done, { state }) =>
        "role" in state && state.tag === "receiving" && done.side.state.tag === "waiting"
          ? {
              ...done,
              side: { ...done.side, state: { ...state, tag: "holding", epoch: 1, link: null, expectsGuest: false } },
            }
          : done,
      ),
    },
    finds: /does not have it/,
  },
  {
    rule: "a standby tells a newer epoch than it holds",
    rules: {
      step: stepThen((done) => ({
        ...done,
        effects: done.effects.map((effect) =>
          effect.tag === "send" && effect.message.tag === "welcome" && effect.message.holds !== null
            ? {
                ...effect,
                message: {
                  ...effect.message,
                  holds: { ...effect.message.holds, epoch: effect.message.holds.epoch + 1 },
                },
              }
            : effect,
        ),
      })),
    },
    finds: /does not hold/,
  },
  {
    rule: "the difference to the standby is sent without knowing it",
    budget: { ...small.budget, faults: 2 },
    faults: ["linkLost", "engineCrash"],
    rules: {
      step: stepThen((done, _, event) => {
        const { state } = done.side;
        if (!("role" in state) || state.tag !== "syncing" || event.tag !== "received") {
          return done;
        }
        const holds = event.message.tag === "welcome" ? event.message.holds : null;
        const basis = holds === null ? null : ({ tag: "delta", ...holds } as const);
        return basis === null
          ? done
          : {
              ...done,
              effects: done.effects.map((effect) => (effect.tag === "beginSync" ? { ...effect, ram: basis } : effect)),
            };
      }),
    },
    finds: /does not know the difference/,
  },
  {
    rule: "a standby never asks for the guest of a dead primary",
    faults: ["hostCrash"],
    rules: {
      step: (side, event) =>
        step(
          side,
          event.tag === "timerFired" && event.timer === "grace"
            ? { tag: "guestReady", shape: side.shape ?? noShape }
            : event,
        ),
    },
    finds: /protection cannot come back/,
  },
];

const noShape = { qemuVersion: "", machine: "", ramBlocks: [], disks: [], devices: [] };

describe("the model finds that", () => {
  test.each(brokenRules)("$rule", (broken) => {
    const { rules, finds } = broken;
    const found = runConfiguration({ ...small, ...broken }, { ...productionRules, ...rules });
    const bad = found.violation ?? found.deadlock;
    expect(bad?.says).toMatch(finds);
    expect(bad?.trace.length).toBeGreaterThan(0);
  });
});

test("production's rules hold in a small world, to the end", () => {
  const found = runConfiguration(small);
  expect(found.violation ?? found.deadlock).toBeUndefined();
  expect(found.isComplete).toBe(true);
  expect(found.protectedCount).toBeGreaterThan(1);
});
