import { expect, test } from "@jest/globals";
import { type QuorumSeat } from "./quorum-record.ts";
import { chooseSeat, type SeatSight } from "./quorum-seat.ts";

const both: SeatSight = { preferred: true, alternate: true };
const onlyAlternate: SeatSight = { preferred: false, alternate: true };
const onlyPreferred: SeatSight = { preferred: true, alternate: false };

test.each<{ when: string; present: QuorumSeat; sights: SeatSight[]; settledForMs?: number; wants: QuorumSeat }>([
  { when: "both sides reach both", present: "preferred", sights: [both, both], wants: "preferred" },
  {
    when: "one side misses the preferred one",
    present: "preferred",
    sights: [both, onlyAlternate],
    wants: "alternate",
  },
  {
    when: "and the other one misses the alternate",
    present: "preferred",
    sights: [onlyPreferred, onlyAlternate],
    wants: "preferred",
  },
  { when: "one side says nothing", present: "preferred", sights: [onlyAlternate], wants: "preferred" },
  {
    when: "a side does not know the alternate",
    present: "preferred",
    sights: [{ ...both, alternate: undefined }, onlyAlternate],
    wants: "preferred",
  },
  {
    when: "both reach the preferred one again",
    present: "alternate",
    sights: [both, onlyPreferred],
    wants: "preferred",
  },
  { when: "one still does not", present: "alternate", sights: [both, onlyAlternate], wants: "alternate" },
  {
    when: "it was moved a moment ago",
    present: "alternate",
    sights: [both, both],
    settledForMs: 59_000,
    wants: "alternate",
  },
])("$when => $wants", ({ present, sights, settledForMs = Infinity, wants }) => {
  expect(chooseSeat(present, sights, settledForMs)).toBe(wants);
});
