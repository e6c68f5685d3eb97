import { describe, expect, test } from "@jest/globals";
import { planReturn, ORIGINAL_ANNOTATION } from "./adoption.ts";
import { type Observed } from "./protected-vm-plan.ts";

/** What the operator writes into a VirtualMachine whose annotation says that this is what it was. */
function returned(original: unknown): unknown {
  const virtualMachine = {
    ...{ apiVersion: "kubevirt.io/v1", kind: "VirtualMachine", spec: {} },
    metadata: { name: "db", namespace: "shop", annotations: { [ORIGINAL_ANNOTATION]: JSON.stringify(original) } },
  };
  const [action] = planReturn({ virtualMachine, vmis: [] } as unknown as Observed, "db-0a1b2c3d");
  return action?.tag === "patchObject" ? action.patch["spec"] : undefined;
}

describe("a VirtualMachine that is given back", () => {
  test("gets what the annotation says that it was", () => {
    const original = {
      runStrategy: "Always",
      template: { metadata: { labels: null, annotations: { "twinrun.dev/guest": null } } },
    };
    expect(returned(original)).toEqual(original);
  });

  test("but is made no side of another's guest, whoever wrote the annotation", () => {
    const marks = { "twinrun.dev/guest": "victim-0a1b2c3d", "twinrun.dev/started-as": "standby", note: "mine" };
    const spec = returned({ template: { metadata: { labels: marks, annotations: marks }, spec: { hostname: "db" } } });
    const left = { "twinrun.dev/guest": null, "twinrun.dev/started-as": null, note: "mine" };
    expect(spec).toEqual({ template: { metadata: { labels: left, annotations: left }, spec: { hostname: "db" } } });
  });
});
