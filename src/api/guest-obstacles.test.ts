import { describe, expect, test } from "@jest/globals";
import { type GuestObstacle, listGuestObstacles } from "./guest-obstacles.ts";

type Json = Readonly<Record<string, unknown>>;

const withDomain = (domain: Json): Json => ({ domain });
const withDevices = (devices: Json): Json => withDomain({ devices });
const withInterface = (binding: Json, network: Json = { multus: { networkName: "lan" } }): Json => ({
  ...withDevices({ interfaces: [{ name: "lan", ...binding }] }),
  networks: [{ name: "lan", ...network }],
});
const withDisk = (disk: Json, volume: Json): Json => ({
  ...withDevices({ disks: [{ name: "system", ...disk }] }),
  volumes: [{ name: "system", ...volume }],
});
const claim = { persistentVolumeClaim: { claimName: "system" } };
const asDisk = { disk: { bus: "virtio" } };

describe("a guest that can be protected", () => {
  test.each<{ readonly when: string; readonly spec: Json }>([
    { when: "with next to nothing", spec: { domain: {} } },
    { when: "on a layer-2 network", spec: withInterface({ bridge: {} }) },
    { when: "with our own binding", spec: withInterface({ binding: { name: "twinrun" } }) },
    { when: "with a disk on a volume", spec: withDisk(asDisk, claim) },
    {
      when: "with a container disk that is only read",
      spec: withDisk({ cdrom: {} }, { containerDisk: { image: "a" } }),
    },
    { when: "with cloud-init", spec: withDisk(asDisk, { cloudInitNoCloud: { userData: "a" } }) },
    { when: "with empty lists and false switches", spec: withDevices({ gpus: [], networkInterfaceMultiqueue: false }) },
    { when: "with UEFI that forgets", spec: withDomain({ firmware: { bootloader: { efi: { secureBoot: false } } } }) },
  ])("$when", ({ spec }) => {
    expect(listGuestObstacles(spec)).toEqual([]);
  });
});

describe("a guest that cannot, or less well", () => {
  const devices = "spec.domain.devices";
  test.each<{
    readonly when: string;
    readonly spec: Json;
    readonly field: string;
    readonly code: GuestObstacle["code"];
    readonly severity?: GuestObstacle["severity"];
  }>([
    {
      when: "virtiofs",
      spec: withDevices({ filesystems: [{}] }),
      field: `${devices}.filesystems`,
      code: "DeviceWritesMemoryFromOutside",
    },
    {
      when: "a CD of a claim that the other side would look for among all tenants'",
      spec: {
        ...withDevices({ disks: [{ name: "system", cdrom: {} }] }),
        volumes: [{ name: "system", ephemeral: { persistentVolumeClaim: { claimName: "somebody-else-a1b2c3" } } }],
      },
      field: "spec.volumes[0]",
      code: "ObjectIsOfTheNamespace",
    },
    {
      when: "the token of an account",
      spec: withDisk({ cdrom: {} }, { serviceAccount: { serviceAccountName: "default" } }),
      field: "spec.volumes[0]",
      code: "ObjectIsOfTheNamespace",
    },
    {
      when: "a volume of KubeVirt's own tools",
      spec: { domain: {}, utilityVolumes: [{ name: "dump", claimName: "somebody-else-a1b2c3" }] },
      field: "spec.utilityVolumes[0]",
      code: "ObjectIsOfTheNamespace",
    },
    { when: "a GPU", spec: withDevices({ gpus: [{}] }), field: `${devices}.gpus`, code: "DeviceIsOfTheHost" },
    {
      when: "a device of the host",
      spec: withDevices({ hostDevices: [{}] }),
      field: `${devices}.hostDevices`,
      code: "DeviceIsOfTheHost",
    },
    {
      when: "a TPM",
      spec: withDevices({ tpm: { persistent: true } }),
      field: `${devices}.tpm`,
      code: "DeviceStateIsElsewhere",
    },
    {
      when: "vsock",
      spec: withDevices({ autoattachVSOCK: true }),
      field: `${devices}.autoattachVSOCK`,
      code: "DeviceWritesMemoryFromOutside",
    },
    {
      when: "many queues",
      spec: withDevices({ networkInterfaceMultiqueue: true }),
      field: `${devices}.networkInterfaceMultiqueue`,
      code: "MultipleQueues",
    },
    {
      when: "SR-IOV",
      spec: withInterface({ sriov: {} }),
      field: `${devices}.interfaces[0]`,
      code: "DeviceIsOfTheHost",
    },
    {
      when: "passt",
      spec: withInterface({ passtBinding: {} }),
      field: `${devices}.interfaces[0]`,
      code: "OutputCannotBeHeld",
    },
    {
      when: "another's binding",
      spec: withInterface({ binding: { name: "vdpa" } }),
      field: `${devices}.interfaces[0]`,
      code: "OutputCannotBeHeld",
    },
    {
      when: "the pod network",
      spec: withInterface({ masquerade: {} }, { pod: {} }),
      field: `${devices}.interfaces[0]`,
      code: "AddressBelongsToPod",
      severity: "limited",
    },
    {
      when: "a container disk",
      spec: withDisk(asDisk, { containerDisk: {} }),
      field: `${devices}.disks[0]`,
      code: "DiskLivesInPod",
      severity: "limited",
    },
    {
      when: "an empty disk",
      spec: withDisk(asDisk, { emptyDisk: { capacity: "1Gi" } }),
      field: `${devices}.disks[0]`,
      code: "DiskLivesInPod",
      severity: "limited",
    },
    {
      when: "a disk that is plugged in",
      spec: withDisk(asDisk, { persistentVolumeClaim: { claimName: "system", hotpluggable: true } }),
      field: `${devices}.disks[0]`,
      code: "DiskIsPluggedIn",
    },
    {
      when: "a disk that is plugged in, by CDI",
      spec: withDisk(asDisk, { dataVolume: { name: "system", hotpluggable: true } }),
      field: `${devices}.disks[0]`,
      code: "DiskIsPluggedIn",
    },
    {
      when: "an ephemeral disk",
      spec: withDisk(asDisk, { ephemeral: {} }),
      field: "spec.volumes[0]",
      code: "ObjectIsOfTheNamespace",
    },
    {
      when: "a file of the host",
      spec: withDisk(asDisk, { hostDisk: {} }),
      field: `${devices}.disks[0]`,
      code: "DeviceIsOfTheHost",
    },
    { when: "a LUN", spec: withDisk({ lun: {} }, claim), field: `${devices}.disks[0]`, code: "DeviceIsOfTheHost" },
    {
      when: "a shared disk",
      spec: withDisk({ ...asDisk, shareable: true }, claim),
      field: `${devices}.disks[0]`,
      code: "DiskIsShared",
    },
    {
      when: "encrypted memory",
      spec: withDomain({ launchSecurity: { sev: {} } }),
      field: "spec.domain.launchSecurity",
      code: "MemoryEncrypted",
    },
    {
      when: "huge pages",
      spec: withDomain({ memory: { hugepages: { pageSize: "2Mi" } } }),
      field: "spec.domain.memory.hugepages",
      code: "HugePages",
    },
    {
      when: "UEFI that remembers",
      spec: withDomain({ firmware: { bootloader: { efi: { persistent: true } } } }),
      field: "spec.domain.firmware.bootloader.efi.persistent",
      code: "FirmwareVariablesElsewhere",
      severity: "limited",
    },
    {
      when: "a liveness probe",
      spec: { domain: {}, livenessProbe: { tcpSocket: { port: 22 } } },
      field: "spec.livenessProbe",
      code: "LivenessProbe",
    },
  ])("$when", ({ spec, field, code, severity = "refused" }) => {
    const obstacles = listGuestObstacles(spec);
    expect(obstacles).toMatchObject([{ field, code, severity }]);
    expect(obstacles[0]?.remedy).not.toBe("");
  });

  test("a spec of another shape than ours says nothing, and breaks nothing", () => {
    expect(listGuestObstacles({ domain: "a", networks: [null], volumes: {} })).toEqual([]);
  });
});
