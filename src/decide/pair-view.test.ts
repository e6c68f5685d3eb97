import { expect, test } from "@jest/globals";
import { buildReport } from "../../test/build/engine-report.ts";
import { buildReportedSide } from "../../test/build/guest-pair-rows.ts";
import { buildGuestPair } from "../../test/build/resources.ts";
import { parseGuestPair } from "../api/guest-pair.ts";
import { type PairReport } from "./cluster-objects.ts";
import { type PairView, viewPair } from "./pair-view.ts";
import { type Observed } from "./protected-vm-plan.ts";

const nowMs = Date.parse("2026-11-27T13:00:00Z");
const at = (offsetMs: number): string => new Date(nowMs + offsetMs).toISOString();

const isReady = (isTrue: boolean, forMs = 20_000): object => ({
  conditions: [{ type: "Ready", status: isTrue ? "True" : "Unknown", lastTransitionTime: at(-forMs) }],
});

/** Both nodes ready or not, for how long, agents on both, and what the agents said last. */
function view(sides: readonly PairReport[], areReady = true, forMs = 20_000): PairView {
  const nodes = ["node-a", "node-b"].map((name) => ({ metadata: { name }, status: isReady(areReady, forMs) }));
  const agents = nodes.map(({ metadata }) => ({
    spec: { nodeName: metadata.name },
    metadata: {},
    status: isReady(true),
  }));
  const protectedVm = { metadata: { namespace: "shop", uid: "u" }, spec: { failover: { isolateAfterFaults: 3 } } };
  const observed = { protectedVm, nodes, agents, findVmi: () => undefined, nowMs } as unknown as Observed;
  return viewPair(observed, parseGuestPair(buildGuestPair({}, { sides }), "pair"));
}

const inSync = { type: "InSync", status: "True", reason: "Protected", message: "", lastTransitionTime: at(0) } as const;

const report = (node: string, said: Parameters<typeof buildReport>[0], ageMs: number): PairReport => ({
  ...buildReportedSide(node, buildReport({ primaryNode: "node-a", ...said })),
  reportedAt: at(-ageMs),
});

test("a standby that its primary is in sync with is there, though its node is taken for lost and it had no news for long", () => {
  const primary = { ...report("node-a", {}, 5_000), conditions: [inSync] };
  const seen = view([primary, report("node-b", { role: "standby" }, 90_000)], false);
  expect(seen).toMatchObject({ isInSync: true, primary: { node: "node-a" }, standby: { node: "node-b" } });
});

test.each([
  { forMs: 2_000, ageMs: 90_000, runs: "node-a" },
  { forMs: 20_000, ageMs: 90_000, runs: undefined },
  { forMs: 40_000, ageMs: 65_000, runs: "node-a" },
])(
  "after an outage of the API server, its nodes lost to it for $forMs ms, $ageMs after its report: the guest runs on $runs",
  ({ forMs, ageMs, runs }) => {
    const primary = { ...report("node-a", {}, ageMs), conditions: [inSync] };
    const seen = view([primary, report("node-b", { role: "standby" }, 90_000)], false, forMs);
    expect(seen.primary?.node).toBe(runs);
  },
);

test("one that is silent is no standby where nobody is in sync with it", () => {
  const primary = { ...report("node-a", { state: "alone" }, 5_000), conditions: [] };
  expect(view([primary, report("node-b", { role: "standby" }, 90_000)], false).standby).toBeUndefined();
});

test.each([
  { when: "the engine that ran the guest is being replaced", said: { role: "starting", state: "stopping" }, is: true },
  { when: "it was fenced, for the other side has the guest", said: { role: "fenced", state: "ended" }, is: true },
  { when: "the other side is on its way to run it", said: { role: "standby", state: "activating" }, is: true },
  { when: "a standby waits", said: { role: "standby", state: "waiting" }, is: false },
] as const)("between two engines: $when", ({ said, is }) => {
  const waiting = report("node-b", { role: "standby", state: "waiting" }, 1_000);
  expect(view([report("node-a", said, 1_000), waiting]).isBetween).toBe(is);
  // What was said long ago is no news of a change.
  expect(view([report("node-a", said, 60_000), waiting]).isBetween).toBe(false);
});

test("a side that asks for another QEMU has none that could go on", () => {
  const asking = {
    ...report("node-a", { role: "starting", state: "running" }, 1_000),
    wantedShape: "primary" as const,
  };
  expect(view([asking]).isBetween).toBe(false);
});

test.each([
  { when: "a drain wants it to go", isCordoned: true, isEvacuated: true },
  { when: "KubeVirt evicts it for its launcher, which is renewed in turn", isCordoned: false, isEvacuated: false },
  { when: "KubeVirt does, and nobody renews it", isCordoned: false, renews: false, isEvacuated: true },
])("an instance with an outdated launcher: $when", ({ isCordoned, renews = true, isEvacuated }) => {
  const node = { metadata: { name: "node-a" }, spec: { unschedulable: isCordoned }, status: isReady(true) };
  const labels = { "kubevirt.io/outdatedLauncherImage": "" };
  const vmi = { metadata: { name: "web", labels }, status: { evacuationNodeName: "node-a" } };
  const observed = {
    protectedVm: { metadata: { namespace: "shop", uid: "u" }, spec: { failover: { isolateAfterFaults: 3 } } },
    ...{ nodes: [node], agents: [], findVmi: () => vmi, nowMs, settings: { renewsLaunchers: renews } },
  } as unknown as Observed;
  const [side] = viewPair(observed, parseGuestPair(buildGuestPair(), "pair")).sides;
  expect(side).toMatchObject({ node: "node-a", isOutdated: true, isEvacuated });
});
