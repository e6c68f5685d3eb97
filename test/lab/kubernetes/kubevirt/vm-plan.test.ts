import { describe, expect, test } from "@jest/globals";
import { planMergePatch } from "./merge-patch.ts";
import { planVm, type StateChangeRequest, type Vm, type VmPlan } from "./vm-plan.ts";
import { type Vmi, type VmiPhase } from "./vmi.ts";

const aVm = (
  runStrategy: "Always" | "Halted" | "Manual" | "RerunOnFailure",
  requests: StateChangeRequest[] = [],
): Vm => ({
  apiVersion: "kubevirt.io/v1",
  kind: "VirtualMachine",
  metadata: { name: "web", namespace: "shop", uid: "1" },
  spec: { runStrategy, template: { spec: { domain: { devices: {} } } } },
  status: { stateChangeRequests: requests },
});

const aVmi = (phase: VmiPhase): Vmi => ({
  apiVersion: "kubevirt.io/v1",
  kind: "VirtualMachineInstance",
  metadata: { name: "web", namespace: "shop", uid: "2" },
  spec: { domain: { devices: {} } },
  status: { phase },
});

const stop: StateChangeRequest = { action: "Stop", uid: "2" };
const start: StateChangeRequest = { action: "Start" };

describe("a VM", () => {
  test.each<[strategy: Parameters<typeof aVm>[0], phase: VmiPhase | "none", action: VmPlan["action"]]>([
    ["Always", "none", "createVmi"],
    ["Always", "Running", "none"],
    ["Always", "Succeeded", "removeVmi"],
    ["RerunOnFailure", "Succeeded", "none"],
    ["RerunOnFailure", "Failed", "removeVmi"],
    ["Manual", "none", "none"],
    ["Manual", "Failed", "none"],
    ["Halted", "Running", "removeVmi"],
    ["Halted", "none", "none"],
  ])("with run strategy %s and an instance that is %s: %s", (strategy, phase, action) => {
    expect(planVm(aVm(strategy), phase === "none" ? undefined : aVmi(phase)).action).toBe(action);
  });

  test("that is restarted is stopped, then started, then left alone", () => {
    expect(planVm(aVm("Manual", [stop, start]), aVmi("Running"))).toEqual({
      action: "removeVmi",
      requests: [stop, start],
    });
    expect(planVm(aVm("Manual", [stop, start]), undefined)).toEqual({ action: "none", requests: [start] });
    expect(planVm(aVm("Manual", [start]), undefined)).toEqual({ action: "createVmi", requests: [start] });
    expect(planVm(aVm("Manual", [start]), aVmi("Scheduling"))).toEqual({ action: "none", requests: [] });
  });
});

describe("a merge patch", () => {
  test.each<[present: object, wanted: object, patch: object | undefined]>([
    [{ a: 1, b: [1, { c: undefined }] }, { a: 1, b: [1, {}] }, undefined],
    [{ a: { b: 1, c: 2 } }, { a: { b: 1 } }, { a: { c: null } }],
    [{ a: [1] }, { a: [1, 2] }, { a: [1, 2] }],
    [{}, { a: { b: {} } }, { a: { b: {} } }],
  ])("from %j to %j", (present, wanted, patch) => {
    expect(planMergePatch(present, wanted)).toEqual(patch);
  });
});
