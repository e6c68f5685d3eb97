import { describe, expect, test } from "@jest/globals";
import { type DomainReport } from "./domain-report.ts";
import { planMergePatch } from "./merge-patch.ts";
import { decidePhase, type LauncherPod, type ObservedVmi, planVmiStatus } from "./vmi-status.ts";
import { type Condition, type Vmi, type VmiPhase } from "./vmi.ts";

const now = "2026-01-01T00:00:00Z";

const aVmi = (phase?: VmiPhase, conditions: readonly Condition[] = []): Vmi => ({
  apiVersion: "kubevirt.io/v1",
  kind: "VirtualMachineInstance",
  metadata: { name: "web", namespace: "shop", uid: "1" },
  spec: { domain: { devices: {} } },
  ...(phase === undefined ? {} : { status: { phase, conditions } }),
});

function aPod(phase: string, isReady = false): LauncherPod {
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "virt-launcher-web", namespace: "shop", uid: "2" },
    spec: { nodeName: "node-a" },
    status: {
      phase,
      conditions: [{ type: "Ready", status: isReady ? "True" : "False", reason: "ReadinessGatesNotReady" }],
      containerStatuses: [{ name: "compute", state: phase === "Running" ? { running: {} } : {} }],
    },
  };
}

const observe = (vmi: Vmi, pod?: LauncherPod, report?: DomainReport): ObservedVmi => ({
  ...{ vmi, pod, report, trouble: undefined, claims: new Map(), now },
});

const running: DomainReport = { state: "running", reason: "booted" };
const ended = (reason: string): DomainReport => ({ state: "ended", reason });

describe("the phase", () => {
  test.each<[when: string, observed: ObservedVmi, phase: VmiPhase]>([
    ["new", observe(aVmi()), "Pending"],
    ["with a pod", observe(aVmi("Pending"), aPod("Pending")), "Scheduling"],
    ["with a launcher", observe(aVmi("Scheduling"), aPod("Running")), "Scheduled"],
    ["with a domain", observe(aVmi("Scheduled"), aPod("Running"), running), "Running"],
    ["whose launcher is out of sight", observe(aVmi("Running"), aPod("Running")), "Running"],
    ["shut down by its guest", observe(aVmi("Running"), aPod("Running"), ended("Shutdown")), "Succeeded"],
    ["whose QEMU was killed", observe(aVmi("Running"), aPod("Running"), ended("Failed")), "Failed"],
    ["whose pod failed unseen", observe(aVmi("Running"), aPod("Failed")), "Failed"],
    ["whose pod is no more", observe(aVmi("Running")), "Failed"],
    ["that is over", observe(aVmi("Succeeded"), aPod("Failed")), "Succeeded"],
  ])("of a VMI %s", (_, observed, phase) => {
    expect(decidePhase(observed)).toBe(phase);
  });
});

test("what was written is not written again, as the API server keeps it: without what is null in a list", () => {
  const observed = observe(aVmi("Running"), aPod("Running"), running);
  const status = planVmiStatus(observed);
  const kept = JSON.parse(JSON.stringify(status), (_, value: unknown) => value ?? undefined) as typeof status;
  const again = planVmiStatus({ ...observed, vmi: { ...observed.vmi, status: kept } });
  expect(planMergePatch({ status: kept }, { status: again })).toBeUndefined();
});

describe("conditions", () => {
  const typesOf = (observed: ObservedVmi): string[] =>
    (planVmiStatus(observed).conditions ?? []).map(({ type, status }) => `${type}=${status}`);

  test.each<[report: DomainReport, conditions: string[]]>([
    [running, ["Ready=True"]],
    [{ state: "paused", reason: "user" }, ["Ready=True", "Paused=True"]],
    [{ state: "paused", reason: "I/O error" }, ["Ready=True", "Paused=True"]],
    [{ state: "paused", reason: "unknown" }, ["Ready=True"]],
  ])("of a domain that is %j", (report, conditions) => {
    expect(typesOf(observe(aVmi("Running"), aPod("Running", true), report))).toEqual(conditions);
  });

  test("take their readiness from the pod, and their time from when they changed", () => {
    const before = { type: "Ready", status: "False", lastTransitionTime: "2025-01-01T00:00:00Z" } as const;
    const [same] = planVmiStatus(observe(aVmi("Running", [before]), aPod("Running"), running)).conditions ?? [];
    expect(same).toMatchObject({ status: "False", lastTransitionTime: before.lastTransitionTime });
    const ready = planVmiStatus(observe(aVmi("Running", [before]), aPod("Running", true), running));
    expect(ready.conditions).toMatchObject([{ status: "True", lastTransitionTime: now }]);
  });
});
