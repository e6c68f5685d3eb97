import { describe, expect, test } from "@jest/globals";
import { type PeerWatch, type SeenLink, stepPeers } from "./peer-watch.ts";

const up = (name: string): SeenLink => ({ name, alive: true, wasClosed: false });
const silent = (name: string): SeenLink => ({ name, alive: false, wasClosed: false });
const closed = (name: string): SeenLink => ({ name, alive: false, wasClosed: true });

/** Looks once a second; each part lasts as many seconds as it says. Repairs are only told where something was wrong. */
function watch(parts: readonly (readonly [seconds: number, links: readonly SeenLink[]])[]): readonly string[] {
  const told: string[] = [];
  let state: PeerWatch = [];
  let second = 0;
  const wrong = new Set<string>();
  for (const [seconds, links] of parts) {
    for (let passed = 0; passed < seconds; passed += 1) {
      const step = stepPeers(state, [{ peer: "node-b", links }], { node: "node-a", nowMs: second * 1_000 });
      state = step.watch;
      for (const { peer, event } of step.events) {
        expect(peer).toBe("node-b");
        const what = `${event.node} ${event.component}`;
        const isNews = event.tag === "faulted" || wrong.delete(what);
        if (event.tag === "faulted") {
          wrong.add(what);
        }
        told.push(...(isNews ? [`${second} s: ${what} ${event.tag === "faulted" ? event.code : "works"}`] : []));
      }
      second += 1;
    }
  }
  return told;
}

const both = [up("fast"), up("slow")];

describe("of a peer", () => {
  test("that was never heard nothing is said", () => {
    expect(watch([[120, [silent("fast"), silent("slow")]]])).toEqual([]);
  });

  test("that falls silent on every link the host is out of service, and in service once it has been heard for a while", () => {
    const lost = [silent("fast"), silent("slow")];
    expect(
      watch([
        [20, both],
        [40, lost],
        [30, both],
      ]),
    ).toEqual(["22 s: node-b host HostSilent", "70 s: node-b host works"]);
  });

  test("whose host fell silent and resets the old connections as it comes back the host failed, not the agent", () => {
    const [lost, reset] = [
      [silent("fast"), silent("slow")],
      [closed("fast"), closed("slow")],
    ];
    expect(
      watch([
        [20, both],
        [1, lost],
        [40, reset],
        [30, both],
      ]),
    ).toEqual(["22 s: node-b host HostSilent", "71 s: node-b host works"]);
  });

  test("that comes and goes is one incident", () => {
    const lost = [silent("fast"), silent("slow")];
    const flapping = [
      [5, lost],
      [8, both],
      [5, lost],
      [8, both],
      [5, lost],
    ] as const;
    expect(watch([[20, both], ...flapping, [20, both]])).toEqual([
      "22 s: node-b host HostSilent",
      "61 s: node-b host works",
    ]);
  });

  test("whose agent is replaced nothing is said, unless it does not come back", () => {
    const gone = [closed("fast"), closed("slow")];
    expect(
      watch([
        [20, both],
        [25, gone],
        [30, both],
      ]),
    ).toEqual([]);
    expect(
      watch([
        [20, both],
        [35, gone],
        [30, both],
      ]),
    ).toEqual(["50 s: node-b agent AgentSilent", "65 s: node-b agent works"]);
  });
});

describe("of a link", () => {
  test("that fails while another works its own side is told, and when it is back for good", () => {
    const cut = [up("fast"), silent("slow")];
    expect(
      watch([
        [20, both],
        [20, cut],
        [20, both],
      ]),
    ).toEqual(["25 s: node-a link/slow LinkDown", "50 s: node-a link/slow works"]);
  });

  test("that comes back a moment later than the others nothing is said", () => {
    const lost = [silent("fast"), silent("slow")];
    const late = [up("fast"), silent("slow")];
    expect(
      watch([
        [20, both],
        [9, lost],
        [4, late],
        [20, both],
      ]),
    ).toEqual(["22 s: node-b host HostSilent", "39 s: node-b host works"]);
  });

  test("that never worked is told where another does", () => {
    expect(watch([[20, [up("fast"), silent("slow")]]])).toEqual(["5 s: node-a link/slow LinkDown"]);
  });
});
