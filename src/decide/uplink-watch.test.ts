import { expect, test } from "@jest/globals";
import { stepUplinks, type UplinkWatch } from "./uplink-watch.ts";

/** Looks four times a second, as the agent does; each part lasts as many milliseconds as it says. */
function watch(parts: readonly (readonly [ms: number, up: boolean])[]): readonly string[] {
  const told: string[] = [];
  let state: UplinkWatch = [];
  let nowMs = 0;
  for (const [ms, up] of parts) {
    for (const endMs = nowMs + ms; nowMs < endMs; nowMs += 250) {
      const step = stepUplinks(state, [{ name: "lan", up }], { node: "node-a", nowMs });
      state = step.watch;
      told.push(...step.events.map(({ tag, component }) => `${nowMs} ms: ${component} ${tag}`));
    }
  }
  return told;
}

test("an uplink that is down for longer than a flap is out of service, and in service when it has been up for a while", () => {
  expect(
    watch([
      [1_000, true],
      [250, false],
      [11_000, true],
      [3_000, false],
      [11_000, true],
    ]),
  ).toEqual(["11250 ms: uplink/lan repaired", "12750 ms: uplink/lan faulted", "25250 ms: uplink/lan repaired"]);
});
