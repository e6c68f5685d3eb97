import { describe, expect, test } from "@jest/globals";
import { readObject, readObjects, readPath } from "../lib/json-merge.ts";
import { type GuestSource } from "./guest-source.ts";
import { encodeInstance, encodeVmi, type TwinRecipe, type TwinSide } from "./twin-recipe.ts";

const identity = { guest: "web-0a1b2c3d", uid: "0a1b2c3d-0000-4000-8000-000000000000", name: "web", namespace: "shop" };
const source: GuestSource = {
  labels: { app: "web" },
  annotations: {},
  spec: {
    domain: { cpu: { cores: 2 }, memory: { guest: "1Gi" }, devices: { interfaces: [{ name: "lan", bridge: {} }] } },
    networks: [{ name: "lan", multus: { networkName: "lan" } }],
    volumes: [
      { name: "system", dataVolume: { name: "web-system" } },
      { name: "init", cloudInitNoCloud: { secretRef: { name: "web-init" } } },
    ],
  },
  dataVolumeTemplates: [],
  virtualMachine: undefined,
};
const recipe = (difference: Partial<TwinRecipe> = {}): TwinRecipe => ({
  source,
  identity,
  machine: { type: "pc-q35-rhel9.6.0", cpuModel: "Haswell" },
  hook: { image: "twinrun/hook", mode: "Sidecar" },
  ...difference,
});
const first: TwinSide = {
  vmi: { namespace: "shop", name: "web-aaaaaa" },
  mark: "aaaaaa",
  hostname: "node-a",
  shape: "primary",
  volumes: new Map([["system", { dataVolume: { name: "system-aaaaaa" } }]]),
};
const second: TwinSide = {
  ...first,
  vmi: { namespace: "twinrun-guests", name: "web-bbbbbb" },
  mark: "bbbbbb",
  hostname: "node-b",
  shape: "standby",
};

describe("the twin recipe", () => {
  const [one, other] = [encodeVmi(recipe(), first), encodeVmi(recipe(), second)];

  test("makes both sides the same machine", () => {
    expect(one.spec?.["domain"]).toEqual(other.spec?.["domain"]);
    expect(one.spec?.["hostname"]).toBe(other.spec?.["hostname"]);
    expect(one.spec?.["domain"]).toMatchObject({
      cpu: { cores: 2, sockets: 1, maxSockets: 1, model: "Haswell" },
      memory: { guest: "1Gi", maxGuest: "1Gi" },
      machine: { type: "pc-q35-rhel9.6.0" },
      firmware: {
        uuid: expect.stringMatching(/^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/),
      },
      devices: { interfaces: [{ macAddress: expect.stringMatching(/^02(:[0-9a-f]{2}){5}$/) }] },
    });
  });

  test("keeps the guest's size as KubeVirt would read it, and room for no more where KubeVirt gives none", () => {
    const resources = { requests: { memory: "512Mi", cpu: 2 } };
    const spec = { domain: { resources, memory: { maxGuest: "2Gi" } } };
    expect(encodeVmi(recipe({ source: { ...source, spec } }), first).spec?.["domain"]).toMatchObject({
      cpu: { sockets: 2, maxSockets: 2 },
      memory: { guest: "512Mi" },
    });
    const vmi = encodeVmi(recipe({ source: { ...source, spec } }), first);
    expect(readObject(vmi.spec, "domain", "memory")).not.toHaveProperty("maxGuest");
  });

  test("starts both paused, each on its node, and leaves evictions to Twinrun", () => {
    for (const [vmi, node] of [
      [one, "node-a"],
      [other, "node-b"],
    ] as const) {
      expect(vmi.spec).toMatchObject({
        startStrategy: "Paused",
        evictionStrategy: "External",
        nodeSelector: { "kubernetes.io/hostname": node },
      });
    }
  });

  test("says in annotations which guest it is, in which shape, and with which hook", () => {
    expect(other.metadata.labels).toEqual({ app: "web", "twinrun.dev/guest": "web-0a1b2c3d" });
    expect(other.metadata.annotations).toMatchObject({
      "twinrun.dev/guest": "web-0a1b2c3d",
      "twinrun.dev/started-as": "standby",
      "twinrun.dev/protected-vm": "shop/web",
    });
    const hooks: unknown = JSON.parse(other.metadata.annotations?.["hooks.kubevirt.io/hookSidecars"] ?? "");
    expect(hooks).toEqual([
      { args: ["--version", "v1alpha3"], image: "twinrun/hook", imagePullPolicy: "IfNotPresent" },
    ]);
  });

  test("names networks, Secrets and volumes so that the other namespace finds them", () => {
    expect(readObjects(one.spec, "networks")).toEqual([{ name: "lan", multus: { networkName: "lan" } }]);
    expect(readObjects(other.spec, "networks")).toEqual([{ name: "lan", multus: { networkName: "shop/lan" } }]);
    expect(readObjects(other.spec, "volumes")).toEqual([
      { name: "system", dataVolume: { name: "system-aaaaaa" } },
      { name: "init", cloudInitNoCloud: { secretRef: { name: "web-init-bbbbbb" } } },
    ]);
  });

  test("only what is in the owner's namespace has an owner", () => {
    expect(one.metadata.ownerReferences).toMatchObject([{ kind: "ProtectedVM", uid: identity.uid }]);
    expect(other.metadata.ownerReferences).toBeUndefined();
  });

  test("applied to its own result it changes nothing", () => {
    const adopted = encodeInstance(recipe(), first);
    expect(encodeInstance(recipe({ source: { ...source, ...adopted } }), first)).toEqual(adopted);
  });

  test("after an upgrade an adopted one has the new hook in place of the old, and whatever else it had", () => {
    const hooksOf = (image: string, annotations: Readonly<Record<string, string>>): unknown[] => {
      const hook = { image, mode: "Sidecar" } as const;
      const { annotations: given } = encodeInstance(recipe({ source: { ...source, annotations }, hook }), first);
      return JSON.parse(given["hooks.kubevirt.io/hookSidecars"] ?? "") as unknown[];
    };
    const others = JSON.stringify([{ image: "registry:5000/other:1" }]);
    const before = JSON.stringify(hooksOf("registry:5000/hook:1", { "hooks.kubevirt.io/hookSidecars": others }));
    const after = hooksOf(`registry:5000/hook@sha256:${"a".repeat(64)}`, { "hooks.kubevirt.io/hookSidecars": before });
    expect(after).toEqual([
      expect.objectContaining({ image: `registry:5000/hook@sha256:${"a".repeat(64)}` }),
      { image: "registry:5000/other:1" },
    ]);
  });

  test("names the Secret of a kernel image as that of its own side", () => {
    const container = { image: "kernels:1", imagePullSecret: "pull" };
    const spec = { ...source.spec, domain: { firmware: { kernelBoot: { container } } } };
    const [one, other] = [first, second].map((side) => encodeVmi(recipe({ source: { ...source, spec } }), side));
    const path = ["domain", "firmware", "kernelBoot", "container"];
    expect(readPath(one?.spec, ...path)).toEqual(container);
    expect(readPath(other?.spec, ...path)).toEqual({ ...container, imagePullSecret: "pull-bbbbbb" });
  });

  test("with a network binding the hook comes by the interface, not by an annotation", () => {
    const bound = encodeVmi(recipe({ hook: { image: "twinrun/hook", mode: "NetworkBinding" } }), first);
    expect(bound.metadata.annotations).not.toHaveProperty(["hooks.kubevirt.io/hookSidecars"]);
    const [lan] = readObjects(bound.spec, "domain", "devices", "interfaces");
    expect(lan).toMatchObject({ name: "lan", binding: { name: "twinrun" } });
    expect(lan).not.toHaveProperty("bridge");
  });

  test("a guest without networks gets the pod's, with an address that stays", () => {
    const bare = { ...source, spec: { domain: { memory: { guest: "1Gi" } } } };
    const vmi = encodeVmi(recipe({ source: bare, machine: {} }), first);
    expect(readObjects(vmi.spec, "networks")).toEqual([{ name: "default", pod: {} }]);
    expect(readPath(readObjects(vmi.spec, "domain", "devices", "interfaces")[0], "macAddress")).toMatch(/^02:/);
    expect(readObject(vmi.spec, "domain", "cpu")).toEqual({ sockets: 1, maxSockets: 1 });
  });
});
