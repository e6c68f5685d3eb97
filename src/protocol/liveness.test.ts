import { expect, test } from "@jest/globals";
import { addLink, noteHeard, silenceInMs, stepLiveness } from "./liveness.ts";

const limits = { heartbeatMs: 60, silenceMs: 400 };

test("a link is given up after its silence, and not before the time that was told", () => {
  const opened = stepLiveness(addLink(addLink({}, "r0", 1_000), "r1", 1_000), 1_000, limits);
  expect(opened.actions.map(({ tag }) => tag)).toEqual(["sendHeartbeat", "sendHeartbeat"]);
  const liveness = noteHeard(opened.liveness, "r1", 1_070);
  const look = { ...limits, heartbeatMs: Infinity };
  expect(silenceInMs(liveness, 1_100, limits.silenceMs)).toBe(300);
  expect(stepLiveness(liveness, 1_400, look).actions).toEqual([]);
  const { actions, liveness: left } = stepLiveness(liveness, 1_401, look);
  expect(actions).toEqual([{ tag: "giveUp", link: "r0" }]);
  expect(silenceInMs(left, 1_401, limits.silenceMs)).toBe(69);
  expect(silenceInMs(left, 2_000, limits.silenceMs)).toBe(0);
  expect(silenceInMs({}, 2_000, limits.silenceMs)).toBeUndefined();
});
