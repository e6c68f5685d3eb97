import { expect, test } from "@jest/globals";
import { type Json } from "../lib/json-merge.ts";
import { planVolumes } from "./volumes.ts";

type Input = Parameters<typeof planVolumes>;

/** The second side of a guest whose one volume is there on the first, as a claim with this spec. */
function planReceiver(spec: Json, hasDataVolumes: boolean): Json {
  const storage = { accessModes: ["ReadWriteOnce"], sizePolicy: "Capacity" };
  const original = { kind: "PersistentVolumeClaim", spec, status: { capacity: { storage: "2Gi" } } };
  const side = (name: string, isOrigin: boolean): Json => ({
    ...{ place: isOrigin ? "first" : "second", mark: name, isOrigin },
    vmiName: { namespace: isOrigin ? "shop" : "twinrun-guests", name },
  });
  const observed = {
    findDataVolume: () => undefined,
    findClaim: ({ name }: { readonly name: string }) => (name === "root" ? original : undefined),
    hasDataVolumes,
    protectedVm: { spec: { storage: { first: storage, second: storage } } },
  };
  const volume = { name: "system", persistentVolumeClaim: { claimName: "root" } };
  const source = { dataVolumeTemplates: [], spec: { volumes: [volume] } };
  const identity = { namespace: "shop", name: "web", uid: "1", guest: "web-1" };
  const input = { source, identity, side: side("b", false), peer: side("a", true) };
  const plan = planVolumes(observed as unknown as Input[0], input as unknown as Input[1]);
  const [action] = plan.actions as readonly { readonly object: { readonly kind: string; readonly spec: Json } }[];
  return { kind: action?.object.kind, spec: action?.object.spec };
}

const block = { volumeMode: "Block", accessModes: ["ReadWriteMany"], storageClassName: "fast" };
const room = {
  ...{ volumeMode: "Block", accessModes: ["ReadWriteOnce"], storageClassName: "fast" },
  resources: { requests: { storage: "2Gi" } },
};

test("the copy of a block volume is a block volume, of the same size and class, for one node", () => {
  expect(planReceiver(block, false)).toEqual({ kind: "PersistentVolumeClaim", spec: room });
});

test("with CDI it is a blank one", () => {
  expect(planReceiver(block, true)).toEqual({ kind: "DataVolume", spec: { source: { blank: {} }, storage: room } });
});
