import { expect, test } from "@jest/globals";
import { type PairView } from "./pair-view.ts";
import { type Observed } from "./protected-vm-plan.ts";
import { findStartHold, planStartAt } from "./start-turn.ts";

const at = (second: number): string => new Date(Date.UTC(2026, 10, 27, 12, 0, second)).toISOString();

type Case = {
  readonly when: string;
  readonly reportedAt?: string;
  readonly state?: string;
  readonly role?: string;
  readonly ready?: string;
  readonly order?: number;
  readonly startAt?: string;
  readonly waitSeconds?: number;
};

/** One guest is before this one; its agent started in second 10, and now is second 60. */
function ask(given: Partial<Case>): string | undefined {
  const { reportedAt = at(20), state = "protected", role = "primary", ready, order = 0, waitSeconds = 300 } = given;
  const running = { state: { running: { startedAt: at(10) } } };
  const agent = {
    metadata: { name: "agent" },
    spec: { nodeName: "node-a" },
    status: {
      conditions: [{ type: "Ready", status: "True", lastTransitionTime: at(30) }],
      containerStatuses: [running],
    },
  };
  const pair = {
    metadata: { name: "db" },
    spec: { sides: [{ node: "node-a", vmi: { namespace: "shop", name: "db" } }] },
    status: { sides: [{ node: "node-a", role, state, term: 1, reportedAt }] },
  };
  const observed = {
    protectedVm: { spec: { start: { order: 5, waitSeconds } } },
    nowMs: Date.parse(at(60)),
    agents: [agent],
    findVmi: () => ({ status: { conditions: ready === undefined ? [] : [{ type: "Ready", status: ready }] } }),
    neighbours: [{ protectedVm: { metadata: { name: "db" }, spec: { start: { order } } }, pair }],
  } as unknown as Observed;
  return findStartHold(observed, { notes: { startAt: given.startAt } } as PairView);
}

test.each<Case>([
  { when: "it runs" },
  { when: "it is ready", ready: "True" },
  { when: "it rests", role: "ended" },
  { when: "it comes in the same turn", order: 5, role: "starting" },
  { when: "this one has waited for long enough", role: "starting", startAt: at(0), waitSeconds: 60 },
  { when: "this one waits for nobody", role: "starting", waitSeconds: 0 },
])("starts: $when", (given) => {
  expect(ask(given)).toBeUndefined();
});

test.each<Case>([
  { when: "it has not begun", role: "starting" },
  { when: "it boots", state: "booting" },
  { when: "it is not ready", ready: "False" },
  { when: "what it says is from before its node went down", reportedAt: at(9) },
  { when: "this one waits not long enough", role: "starting", startAt: at(1), waitSeconds: 60 },
])("waits: $when", (given) => {
  expect(ask(given)).toBe("db, which starts before it (spec.start)");
});

test("the time of waiting begins when the guest is to start, and ends with the waiting", () => {
  const observed = { protectedVm: { spec: { start: { order: 1 } } }, nowMs: Date.parse(at(60)) } as Observed;
  const view = (startAt: string | undefined, isNew: boolean): PairView =>
    ({ notes: { startAt }, isNew, sides: [] }) as unknown as PairView;
  expect(planStartAt(observed, view(undefined, true))).toBe(at(60));
  expect(planStartAt(observed, view(at(3), true))).toBe(at(3));
  expect(planStartAt(observed, view(at(3), false))).toBeUndefined();
});
