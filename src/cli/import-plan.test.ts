import { describe, expect, test } from "@jest/globals";
import { type OvfMachine } from "../image/ovf.ts";
import { type Json, readPath } from "../lib/json-merge.ts";
import { CliFailure } from "./cli-failure.ts";
import { parseCommandLine } from "./command-line.ts";
import { parseImportWish, planImport } from "./import-plan.ts";

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const disk = { virtualBytes: 10 * GIB, identity: "0a1b2c3d" };
const ovf: OvfMachine = {
  ...{ name: "Web Server 01", cores: 4, memoryBytes: 2 * GIB, isEfi: true, networks: ["VM Network"] },
  disks: [{ file: "a.vmdk" }],
};

type Given = {
  readonly flags?: readonly string[];
  readonly machine?: OvfMachine;
  readonly template?: Json;
  readonly disksCount?: number;
  readonly hasDataVolumes?: boolean;
};

function plan({
  flags = [],
  machine,
  template = {},
  disksCount = 1,
  hasDataVolumes = false,
}: Given): ReturnType<typeof planImport> {
  const invocation = parseCommandLine(["import", "a.qcow2", "--nodes", "node-a,node-b", ...flags]);
  const wish = parseImportWish(invocation, { namespace: "shop", machine, template });
  return planImport(
    wish,
    Array.from({ length: disksCount }, () => disk),
    hasDataVolumes,
  );
}

const said = (given: Given): string => {
  try {
    plan(given);
    return "taken";
  } catch (error) {
    if (error instanceof CliFailure) {
      return `${error.detail.code}: ${error.message}`;
    }
    throw error;
  }
};

const named = ["--name", "web", "--memory", "2Gi"];
const instancePath = ["spec", "virtualMachineTemplate", "spec", "template", "spec"];

test("a disk and a command line", () => {
  const { volumes, vm, notes } = plan({ flags: named });
  expect(volumes.map(({ object }) => object)).toEqual([
    {
      ...{ apiVersion: "v1", kind: "PersistentVolumeClaim" },
      metadata: { name: "web-disk", namespace: "shop", annotations: { "twinrun.dev/import-of": "0a1b2c3d" } },
      spec: {
        accessModes: ["ReadWriteOnce"],
        resources: { requests: { storage: String(Math.ceil(10240 * 1.06) * MIB) } },
      },
    },
  ]);
  expect(vm).toEqual({
    ...{ apiVersion: "twinrun.dev/v1alpha1", kind: "ProtectedVM", metadata: { name: "web", namespace: "shop" } },
    spec: {
      ...{ mode: "FaultTolerant", placement: { nodes: ["node-a", "node-b"] } },
      virtualMachineTemplate: {
        spec: {
          template: {
            spec: {
              domain: {
                ...{ cpu: { cores: 1 }, memory: { guest: "2Gi" } },
                devices: {
                  disks: [{ name: "disk", bootOrder: 1, disk: { bus: "virtio" } }],
                  interfaces: [{ name: "net1", masquerade: {} }],
                },
              },
              volumes: [{ name: "disk", persistentVolumeClaim: { claimName: "web-disk" } }],
              networks: [{ name: "net1", pod: {} }],
            },
          },
        },
      },
    },
  });
  expect(notes).toEqual([expect.stringContaining("its address is the pod's")]);
});

test("where CDI is, it makes the volume, and adds the file system's share itself", () => {
  const flags = [...named, "--storage-class", "fast", "--size", "20Gi"];
  const { volumes, vm } = plan({ flags, hasDataVolumes: true });
  expect(volumes[0]?.object).toMatchObject({
    kind: "DataVolume",
    spec: {
      source: { blank: {} },
      storage: { storageClassName: "fast", resources: { requests: { storage: String(20 * GIB) } } },
    },
  });
  expect(readPath(vm, ...instancePath, "volumes")).toEqual([{ name: "disk", dataVolume: { name: "web-disk" } }]);
  expect(readPath(vm, "spec", "storage", "second")).toEqual({ storageClassName: "fast" });
});

test("what an OVF says, and what the command line says against it", () => {
  const flags = ["--network", "lan", "--cpus", "2", "--disk-bus", "sata", "--nic-model", "e1000e"];
  const { vm, volumes } = plan({ machine: ovf, flags, disksCount: 2 });
  expect(volumes.map(({ claim }) => claim)).toEqual(["web-server-01-disk", "web-server-01-disk2"]);
  expect(readPath(vm, ...instancePath)).toMatchObject({
    domain: {
      ...{ cpu: { cores: 2 }, memory: { guest: "2048Mi" } },
      firmware: { bootloader: { efi: { secureBoot: false } } },
      devices: {
        disks: [
          { name: "disk", bootOrder: 1, disk: { bus: "sata" } },
          { name: "disk2", disk: { bus: "sata" } },
        ],
        interfaces: [{ name: "net1", model: "e1000e", bridge: {} }],
      },
    },
    networks: [{ name: "net1", multus: { networkName: "lan" } }],
  });
});

const template = {
  ...{ kind: "ProtectedVM", metadata: { name: "old", labels: { team: "blue" } } },
  spec: {
    placement: { nodes: ["node-b", "node-c"] },
    checkpoint: { maxAddedLatencyMs: 20 },
    virtualMachineTemplate: {
      spec: {
        template: {
          spec: {
            domain: {
              ...{ cpu: { sockets: 2 }, memory: { guest: "4Gi" } },
              devices: { disks: [{ name: "settings", disk: {} }], interfaces: [{ name: "lan", bridge: {} }] },
            },
            networks: [{ name: "lan", multus: { networkName: "lan" } }],
            volumes: [{ name: "settings", cloudInitNoCloud: { userData: "#cloud-config" } }],
          },
        },
      },
    },
  },
};

test("a template keeps what the command line does not say", () => {
  const { vm } = plan({ template, flags: ["--name", "new"] });
  expect(vm.metadata).toEqual({ name: "new", namespace: "shop", labels: { team: "blue" } });
  expect(readPath(vm, "spec", "checkpoint")).toEqual({ maxAddedLatencyMs: 20 });
  expect(readPath(vm, ...instancePath)).toEqual({
    domain: {
      ...{ cpu: { sockets: 2 }, memory: { guest: "4Gi" } },
      devices: {
        disks: [
          { name: "disk", bootOrder: 1, disk: { bus: "virtio" } },
          { name: "settings", disk: {} },
        ],
        interfaces: [{ name: "lan", bridge: {} }],
      },
    },
    networks: [{ name: "lan", multus: { networkName: "lan" } }],
    volumes: [
      { name: "disk", persistentVolumeClaim: { claimName: "new-disk" } },
      { name: "settings", cloudInitNoCloud: { userData: "#cloud-config" } },
    ],
  });
});

describe("refused", () => {
  test.each<{ what: string; given: Given; says: RegExp }>([
    { what: "no name", given: { flags: ["--memory", "1Gi"] }, says: /^UsageWrong: import needs --name/ },
    { what: "no memory", given: { flags: ["--name", "web"] }, says: /^UsageWrong: import needs --memory/ },
    {
      what: "one node",
      given: { flags: [...named, "--nodes", "node-a"] },
      says: /^UsageWrong: import needs --nodes A,B/,
    },
    {
      what: "an OVF's networks unnamed",
      given: { machine: ovf },
      says: /1 network cards \(VM Network\): name a network/,
    },
    { what: "no size", given: { flags: [...named, "--size", "large"] }, says: /--size must be a size such as 20Gi/ },
    {
      what: "no bus",
      given: { flags: [...named, "--disk-bus", "ide"] },
      says: /--disk-bus must be virtio or sata or scsi/,
    },
    {
      what: "a template that cannot be protected",
      given: {
        flags: named,
        template: {
          spec: { virtualMachineTemplate: { spec: { template: { spec: { domain: { devices: { tpm: {} } } } } } } },
        },
      },
      says: /^Refused: the guest could not be protected: the state of a TPM/,
    },
  ])("$what", ({ given, says }) => {
    expect(said(given)).toMatch(says);
  });
});
