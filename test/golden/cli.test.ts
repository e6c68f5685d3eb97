/** What kubectl twinrun prints, whole: cli/NAME.txt. UPDATE=1 writes them anew; the change is for a reviewer to see. */
import { describe, expect, test } from "@jest/globals";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { checkCluster } from "../../src/cli/cluster-checks.ts";
import { COMMAND_NAMES } from "../../src/cli/command-table.ts";
import { writeDescription } from "../../src/cli/describe-view.ts";
import { listEventColumns, sortEvents } from "../../src/cli/event-view.ts";
import { listFaultColumns, listFaults, writeRemedies } from "../../src/cli/faults-view.ts";
import { writeFindings } from "../../src/cli/findings.ts";
import { checkGuest } from "../../src/cli/guest-checks.ts";
import { writeCommandHelp, writeHelp } from "../../src/cli/help.ts";
import { known, type KubeEvent } from "../../src/cli/kube-objects.ts";
import { guestColumns, judgeNode, listGuestsOn } from "../../src/cli/maintenance.ts";
import { checkNodes } from "../../src/cli/node-checks.ts";
import { plainPaint } from "../../src/cli/paint.ts";
import { type ShownPair } from "../../src/cli/protected-vms.ts";
import { listStatusColumns } from "../../src/cli/status-view.ts";
import { writeTable } from "../../src/cli/table.ts";
import { encodeMaintenance } from "../../src/decide/maintenance.ts";
import { buildClusterFacts, buildGuestFacts, buildNode, buildWorkload, calmWorkloads } from "../build/doctor-facts.ts";
import { buildReport } from "../build/engine-report.ts";
import { buildReportedSide } from "../build/guest-pair-rows.ts";
import { buildPairOn } from "../build/pairs-on.ts";
import { buildGuestPair, buildSeenFault } from "../build/resources.ts";
import { buildShownVm, calmConditions, condition, nowMs } from "../build/shown-vms.ts";

const folder = join(import.meta.dirname, "cli");

function expectGolden(name: string, lines: readonly string[]): void {
  const path = join(folder, `${name}.txt`);
  const text = `${lines.join("\n")}\n`;
  if (process.env["UPDATE"] === "1") {
    writeFileSync(path, text);
  }
  expect(text).toBe(readFileSync(path, "utf8"));
}

const lastFailover = { cause: "no sign of node-a on any link", at: "2026-01-31T08:24:48Z", durationMs: 570, epoch: 41 };
const group = "shop";
const vms = [
  buildShownVm(),
  buildShownVm({
    name: "db",
    spec: { failover: { group } },
    status: {
      lastFailover,
      disks: [{ name: "system", syncPercent: 63.7 }],
      checkpoint: undefined,
    },
    conditions: [
      condition("Ready", "False", "Synchronising", "the standby receives a whole copy"),
      condition("InSync", "False", "Synchronising", "63 % of memory and disks"),
    ],
  }),
  buildShownVm({
    name: "mail",
    status: { primary: undefined, standby: undefined, checkpoint: undefined, disks: undefined, term: undefined },
    conditions: [
      condition("Ready", "False", "Stalled", "see Stalled"),
      condition("Stalled", "True", "NodesMissing", "node-b does not exist: name another in spec.placement.nodes"),
    ],
  }),
  buildShownVm({ name: "new", status: { guest: undefined, primary: undefined, standby: undefined }, conditions: [] }),
];

test("status", () => {
  expectGolden("status", writeTable(listStatusColumns({ withNamespace: false, isWide: false, nowMs }), vms));
  expectGolden("status-wide", writeTable(listStatusColumns({ withNamespace: true, isWide: true, nowMs }), vms));
});

const event = (reason: string, at: string, difference: Partial<KubeEvent> = {}): KubeEvent => ({
  ...{ apiVersion: "events.k8s.io/v1", kind: "Event", metadata: { name: reason.toLowerCase(), namespace: "shop" } },
  ...{ reason, type: "Normal", eventTime: at, note: `${reason} it is` },
  regarding: { kind: "ProtectedVM", namespace: "shop", name: "web" },
  ...difference,
});
const events = [
  event("FailedOver", "2026-01-31T08:24:48Z", { type: "Warning" }),
  event("Protected", "2026-01-31T08:10:00Z"),
  event("Unhealthy", "", {
    ...{ eventTime: null, deprecatedCount: 5, deprecatedLastTimestamp: "2026-01-31T08:29:00Z" },
    regarding: { kind: "VirtualMachineInstance", namespace: "shop", name: "web" },
    note: "two\nlines",
  }),
];

test("events", () => {
  const columns = listEventColumns({ withNamespace: true, withObject: true, nowMs });
  expectGolden("events", writeTable(columns, sortEvents(events)));
});

const failed = {
  ...{ firstAt: "2026-01-31T08:02:00Z", lastAt: "2026-01-31T08:24:10Z", incidents: [] },
} as const;
const faults = [
  buildSeenFault({
    ...failed,
    ...{ component: "host", code: "HostSilent", state: "Isolated", count: 3, repairedAt: "2026-01-31T08:25:30Z" },
    ...{
      message: "node-a fell silent on all 2 links at once",
      done: "the guest runs on elsewhere",
      remedy: "look at its power",
    },
  }),
  buildSeenFault({ ...failed, node: "node-b" }),
  buildSeenFault({
    ...failed,
    ...{ component: "link/fast", code: "LinkDown", state: "InService", count: 1 },
    ...{ repairedAt: "2026-01-31T08:02:40Z", clearedAt: "2026-01-31T08:10:00Z", message: "nothing comes over fast" },
  }),
];

test("faults", () => {
  const shown = listFaults([buildShownVm({ status: { faults } }), buildShownVm({ name: "db" })]);
  const columns = (isWide: boolean) => listFaultColumns({ withNamespace: isWide, withName: true, isWide, nowMs });
  expectGolden("faults", [...writeTable(columns(false), shown), ...writeRemedies(shown)]);
  expectGolden("faults-wide", writeTable(columns(true), shown));
});

describe("describe", () => {
  const members = [{ name: "db", primary: "node-a" }, { name: "web", primary: "node-a" }, { name: "cache" }];
  const report = { reportedAt: "2026-01-31T08:29:55Z" };
  const traffic = { mibPerSecond: 43.31, nodePeakMiBPerSecond: 88, heldToMiBPerSecond: 44.96 };
  const sides = [
    { ...buildReportedSide("node-a", buildReport()), ...report, traffic },
    {
      ...buildReportedSide("node-b", buildReport({ role: "standby" })),
      ...{ ...report, trouble: "QEMU is not there yet: look at pod virt-launcher-web", wantedShape: "standby" },
    },
  ];
  const pair = { ...buildGuestPair(), status: { sides } } as unknown as ShownPair;

  test("of one that is protected", () => {
    const vm = buildShownVm({
      spec: {
        virtualMachineRef: { name: "web" },
        placement: { nodes: ["node-a", "node-b"], apartFrom: { app: "db", tier: "1" } },
        failover: { detectionTimeoutMs: 500, reprotect: "Automatic", group },
        start: { order: 2, waitSeconds: 300 },
      },
      status: { lastFailover, faults, group: { name: group, node: "node-a", members } },
      conditions: calmConditions,
    });
    expectGolden("describe", writeDescription({ vm, pair: known(pair), events: known(events), nowMs }, plainPaint));
  });

  test("of one that nobody has seen, for somebody who may not see much", () => {
    const vm = { ...buildShownVm(), status: {} };
    const hidden = { tag: "unknown", why: "guestpairs is forbidden" } as const;
    expectGolden("describe-new", writeDescription({ vm, pair: hidden, events: known([]), nowMs }, plainPaint));
  });
});

test("doctor", () => {
  const workloads = calmWorkloads.map((each) =>
    each.metadata.name === "twinrun-quorum" ? buildWorkload("quorum", { args: ["--store=lease:twinrun"] }) : each,
  );
  const facts = buildClusterFacts({
    workloads: known(workloads),
    nodes: known([buildNode("node-a"), buildNode("node-b", { kernel: "5.14.0", ready: "False" }), buildNode("node-c")]),
    certificates: { tag: "unknown", why: 'User "tenant" cannot list resource "secrets"' },
  });
  const groups = [checkCluster(facts), ...checkNodes(facts), checkGuest(facts, buildGuestFacts())];
  expectGolden("doctor", writeFindings(groups, plainPaint, false));
  expectGolden("doctor-wide", writeFindings(groups, plainPaint, true));
});

test("maintenance", () => {
  const guests = [
    buildPairOn("web", { runsOn: "node-b", settledFor: "node-a@then" }),
    buildPairOn("db", { runsOn: "node-a" }),
    buildPairOn("mail", { rests: true }),
  ];
  const mark = encodeMaintenance({ by: "root", since: "then", reason: "kernel update", wasCordoned: false });
  const node = buildNode("node-a", { annotations: { "twinrun.dev/maintenance": mark } });
  const facts = { node, nodes: [node, buildNode("node-b")], pairs: guests };
  expectGolden("maintenance", [...writeTable(guestColumns, listGuestsOn(facts)), judgeNode(facts).says]);
});

test("help", () => {
  expectGolden("help", writeHelp());
  expectGolden(
    "help-commands",
    COMMAND_NAMES.filter((name) => name !== "help").flatMap((name) => [`=== ${name}`, ...writeCommandHelp(name), ""]),
  );
});
