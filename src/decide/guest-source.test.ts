import { expect, test } from "@jest/globals";
import { type Json } from "../lib/json-merge.ts";
import { listCopiedDisks } from "./guest-source.ts";

const source = (disk: Json, volume: Json): Parameters<typeof listCopiedDisks>[0] => ({
  ...{ labels: {}, annotations: {}, dataVolumeTemplates: [], virtualMachine: undefined },
  spec: {
    domain: { devices: { disks: [{ name: "data", ...disk }] } },
    volumes: [{ name: "data", ...volume }],
  },
});

const onVolume = { name: "data", isOfPod: false };
const inPod = { name: "data", isOfPod: true };

test.each([
  { when: "a disk on a claim", disk: { disk: {} }, volume: { persistentVolumeClaim: {} }, copied: [onVolume] },
  { when: "a disk on a DataVolume", disk: {}, volume: { dataVolume: { name: "data" } }, copied: [onVolume] },
  { when: "one that is only read", disk: { disk: { readonly: true } }, volume: { dataVolume: {} }, copied: [] },
  { when: "a CD on a claim", disk: { cdrom: {} }, volume: { persistentVolumeClaim: {} }, copied: [] },
  { when: "a container disk", disk: { disk: {} }, volume: { containerDisk: {} }, copied: [inPod] },
  { when: "an empty disk", disk: { disk: {} }, volume: { emptyDisk: {} }, copied: [inPod] },
  { when: "a container disk as CD", disk: { cdrom: {} }, volume: { containerDisk: {} }, copied: [] },
  { when: "cloud-init", disk: { disk: {} }, volume: { cloudInitNoCloud: {} }, copied: [inPod] },
  { when: "cloud-init as CD", disk: { cdrom: {} }, volume: { cloudInitConfigDrive: {} }, copied: [inPod] },
  { when: "a token", disk: { disk: {} }, volume: { serviceAccount: {} }, copied: [inPod] },
  { when: "metrics", disk: { disk: {} }, volume: { downwardMetrics: {} }, copied: [] },
])("what is copied of a guest: $when", ({ disk, volume, copied }) => {
  expect(listCopiedDisks(source(disk, volume))).toEqual(copied);
});
