/**
 * The guest a ProtectedVM brings along: the part of KubeVirt's VirtualMachine spec that Twinrun uses, under the same names, so
 * that an existing manifest can be pasted. (`runStrategy` is not among them: Twinrun decides when which side runs.)
 *
 * KubeVirt's own validation is the judge of a VirtualMachineInstance. Named here is only what no guest can keep under
 * protection and what can be seen in the template; the rest is found when the guest is made (StalledReason NotProtectable).
 */
import { z } from "zod";
import { sequence, struct, textMap } from "./fields.ts";
import { openObject, withRule } from "./structural.ts";

/** Devices of which there must be none; a list, so that an empty one may stand there. */
const deviceList = sequence(openObject({}), { max: 64 }).optional();

type DeviceLists = Readonly<Record<string, unknown>>;

function refuseDevices<S extends z.ZodType<DeviceLists>>(schema: S, field: string, why: string): S {
  return withRule(
    schema,
    {
      rule: `!has(self.${field}) || size(self.${field}) == 0`,
      message: `must be empty: ${why}`,
      fieldPath: `.${field}`,
    },
    (devices) => devices[field] === undefined || (devices[field] as readonly unknown[]).length === 0,
  );
}

const anyDevices = openObject({
  filesystems: deviceList,
  gpus: deviceList,
  hostDevices: deviceList,
  networkInterfaceMultiqueue: z.boolean("true or false").optional(),
});
const passedThrough = "the state of a passed-through device cannot be copied";
const REFUSED_DEVICES = [
  { field: "filesystems", why: "what virtiofs writes into the guest's memory is not seen" },
  { field: "gpus", why: passedThrough },
  { field: "hostDevices", why: passedThrough },
];

const devices = withRule(
  REFUSED_DEVICES.reduce((schema, { field, why }) => refuseDevices(schema, field, why), anyDevices),
  {
    rule: "!has(self.networkInterfaceMultiqueue) || !self.networkInterfaceMultiqueue",
    message: "must not be true: what the guest sends is held back on one queue",
    fieldPath: ".networkInterfaceMultiqueue",
  },
  ({ networkInterfaceMultiqueue }) => networkInterfaceMultiqueue !== true,
);

const instanceSpec = withRule(
  openObject({
    domain: openObject({ devices: devices.optional() }).describe("Processors, memory and devices."),
    livenessProbe: openObject({}).optional(),
  }),
  {
    rule: "!has(self.livenessProbe)",
    message: "must be left out: both sides start paused, and KubeVirt refuses that together with a liveness probe",
    fieldPath: ".livenessProbe",
  },
  ({ livenessProbe }) => livenessProbe === undefined,
);

export const guestTemplate = struct({
  spec: struct({
    dataVolumeTemplates: sequence(openObject({}), { max: 64 })
      .default([])
      .describe("Volumes to be made for the guest, filled on its first side; the other side receives a copy."),
    template: struct({
      metadata: openObject({ labels: textMap(64, 63).optional(), annotations: textMap(64, 65_536).optional() })
        .optional()
        .describe("Labels and annotations of both VirtualMachineInstances."),
      spec: instanceSpec.describe("The spec of a VirtualMachineInstance."),
    }).describe("The VirtualMachineInstance that is made twice."),
  }).describe("What Twinrun uses of the spec of a VirtualMachine."),
});
