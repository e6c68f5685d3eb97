import { expect, test } from "@jest/globals";
import { type PairView } from "./pair-view.ts";
import { planThaw } from "./thaw.ts";

const takenOverAtMs = Date.parse("2026-11-28T02:00:00Z");
const vmiName = { namespace: "twinrun-guests", name: "web-node-b" };

test.each([
  { when: "it was frozen when it was taken over", frozen: "frozen", takenOver: true, afterMs: 10_000, thaws: true },
  { when: "somebody froze it long after that", frozen: "frozen", takenOver: true, afterMs: 600_000, thaws: false },
  { when: "somebody froze it where it has always run", frozen: "frozen", takenOver: false, afterMs: 0, thaws: false },
  { when: "nothing is frozen", frozen: undefined, takenOver: true, afterMs: 10_000, thaws: false },
])("thaws: $thaws, when $when", ({ frozen, takenOver, afterMs, thaws }) => {
  const lastTakeover = { at: new Date(takenOverAtMs).toISOString() };
  const primary = {
    node: "node-b",
    vmiName,
    vmi: { status: { fsFreezeStatus: frozen } },
    report: takenOver ? { lastTakeover } : {},
  };
  const view = { primary } as unknown as PairView;
  const { actions, events } = planThaw(view, takenOverAtMs + afterMs);
  expect(actions).toEqual(thaws ? [{ tag: "thawInstance", name: vmiName }] : []);
  expect(events.map(({ reason }) => reason)).toEqual(thaws ? ["Thawed"] : []);
});
