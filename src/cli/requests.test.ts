import { describe, expect, test } from "@jest/globals";
import { buildShownVm, calmStatus, condition } from "../../test/build/shown-vms.ts";
import { type Step } from "./follow.ts";
import { type KubeEvent } from "./kube-objects.ts";
import { countEvents, decideRequest, listNewEvents, type Request, type RequestSight } from "./requests.ts";
import { decideFarewell, encodeFarewell } from "./run-changes.ts";
import { decideReady } from "./run-protect.ts";

const event = (reason: string, note = "", uid = "1"): KubeEvent => ({
  ...{ apiVersion: "events.k8s.io/v1", kind: "Event", metadata: { name: "a", uid }, reason, note },
});
const to = (node: string): Request => ({ tag: "switchover", to: node });
const from = (node: string): Request => ({ tag: "failover", from: node });
const asking = (key: string, node: string) => buildShownVm({ annotations: { [`twinrun.dev/${key}`]: node } });
const moved = buildShownVm({
  status: { ...calmStatus, primary: { node: "node-b", vmi: { namespace: "shop", name: "b" } } },
});

describe("how far a request is", () => {
  test.each<Partial<RequestSight> & { readonly when: string; readonly step: Step["tag"]; readonly says: string }>([
    { when: "asked", vm: asking("switchover-to", "node-b"), step: "waiting", says: "waiting for the operator" },
    {
      when: "under way",
      vm: buildShownVm({
        annotations: { "twinrun.dev/switchover-to": "node-b" },
        conditions: [condition("Reconciling", "True", "ChangingSides", "moving to node-b")],
      }),
      ...{ step: "waiting", says: "moving to node-b" },
    },
    { when: "done", vm: moved, step: "done", says: "the guest runs on node-b" },
    { when: "taken away a moment ago", vm: buildShownVm(), goneForMs: 100, step: "waiting", says: "taken up" },
    {
      when: "taken away without a word",
      vm: buildShownVm(),
      goneForMs: 60_000,
      step: "refused",
      says: "did not change",
    },
    {
      when: "refused",
      ...{
        vm: buildShownVm(),
        newEvents: [event("SwitchoverRefused", "not in sync")],
        step: "refused",
        says: "not in sync",
      },
    },
    { when: "told by an event", vm: buildShownVm(), newEvents: [event("SwitchedOver")], step: "done", says: "runs on" },
    { when: "asked by another", vm: asking("switchover-to", "node-c"), step: "refused", says: "asked for node-c" },
    {
      when: "a fault is cleared",
      ...{
        request: { tag: "clear", what: "node-a/host" } as const,
        vm: buildShownVm(),
        newEvents: [event("FaultsCleared")],
      },
      ...{ step: "done", says: "does not count any more" },
    },
    {
      when: "nothing like that has failed",
      ...{
        request: { tag: "clear", what: "roof" } as const,
        vm: buildShownVm(),
        newEvents: [event("ClearRefused", "roof?")],
      },
      ...{ step: "refused", says: "roof?" },
    },
    { when: "deleted", vm: undefined, step: "refused", says: "deleted" },
    { when: "failed over", request: from("node-a"), vm: moved, step: "done", says: "the guest runs on node-b" },
    { when: "not yet failed over", request: from("node-a"), vm: buildShownVm(), step: "waiting", says: "taken up" },
  ])("$when", ({ step, says, vm, request = to("node-b"), newEvents = [], goneForMs = 0 }) => {
    const decided = decideRequest({ vm, request, newEvents, goneForMs });
    expect(decided.tag).toBe(step);
    expect(decided.says).toContain(says);
  });

  test("only events count that are new or have happened again", () => {
    const before = countEvents([event("A", "", "1"), event("B", "", "2")]);
    const again = { ...event("B", "", "2"), series: { count: 2 } };
    expect(listNewEvents([event("A", "", "1"), again, event("C", "", "3")], before)).toEqual([
      again,
      event("C", "", "3"),
    ]);
  });
});

describe("the end of a protection", () => {
  const adopted = buildShownVm({ uid: "1" });
  const owned = buildShownVm({ uid: "1", spec: { virtualMachineTemplate: { spec: { template: { spec: {} } } } } });

  test("a VM that goes on is asked for with yes or no, a guest that ends by its name", () => {
    expect(encodeFarewell(adopted).word).toBeUndefined();
    expect(encodeFarewell(owned)).toMatchObject({ word: "web" });
    expect(encodeFarewell(owned).explains.join(" ")).toContain("deleted, WITH THEIR CONTENT");
  });

  test("is told until the object is gone, or another has its name", () => {
    expect(decideFarewell(adopted, adopted).tag).toBe("waiting");
    expect(decideFarewell(undefined, adopted)).toMatchObject({ tag: "done" });
    expect(decideFarewell(buildShownVm({ uid: "2" }), adopted)).toMatchObject({ tag: "done" });
  });
});

describe("the beginning of a protection", () => {
  test.each([
    { when: "nobody has looked", vm: buildShownVm({ conditions: [] }), tag: "waiting" },
    { when: "it is ready", vm: buildShownVm(), tag: "done" },
    {
      when: "a person has to act",
      vm: buildShownVm({ conditions: [condition("Stalled", "True", "NodesMissing", "add a node")] }),
      tag: "refused",
    },
    { when: "it was deleted", vm: undefined, tag: "refused" },
  ])("$when: $tag", ({ vm, tag }) => {
    expect(decideReady(vm).tag).toBe(tag);
  });
});
