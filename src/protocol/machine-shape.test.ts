import { expect, test } from "@jest/globals";
import { compareShapes } from "./machine-shape.ts";
import { type MachineShape } from "./messages.ts";

const shape: MachineShape = {
  qemuVersion: "10.0.0",
  machine: "pc-q35-10.0",
  ramBlocks: [{ name: "pc.ram", bytes: 2 ** 30 }],
  disks: [{ id: "root", bytes: 2 ** 30 }],
  devices: [
    { model: "virtio-blk-pci", count: 1 },
    { model: "virtio-net-pci", count: 1 },
  ],
};

test.each<{ what: string; primary?: Partial<MachineShape>; standby?: Partial<MachineShape>; says?: RegExp }>([
  { what: "equal machines" },
  {
    what: "another machine type",
    standby: { machine: "pc-q35-9.2" },
    says: /machine type is pc-q35-10.0 .* pc-q35-9.2/,
  },
  { what: "another QEMU", standby: { qemuVersion: "10.1.0" }, says: /QEMU is 10.0.0 .* 10.1.0/ },
  { what: "less memory", standby: { ramBlocks: [{ name: "pc.ram", bytes: 1 }] }, says: /RAM block pc.ram/ },
  { what: "a smaller disk", standby: { disks: [{ id: "root", bytes: 1 }] }, says: /enlarge the standby's volume/ },
  { what: "no such disk", standby: { disks: [] }, says: /the standby has no disk root/ },
  {
    what: "a disk that the primary does not copy",
    standby: { disks: [...shape.disks, { id: "data", bytes: 1 }] },
    says: /the primary does not copy disk data/,
  },
  { what: "a disk that takes any size", standby: { disks: [{ id: "root", bytes: null }] } },
  {
    what: "a device plugged into the guest",
    primary: { devices: [{ model: "virtio-blk-pci", count: 2 }, ...shape.devices.slice(1)] },
    says: /has 2 devices virtio-blk-pci, the standby's QEMU 1; plug in nothing while it runs/,
  },
  {
    what: "a device that only the standby has",
    standby: { devices: [...shape.devices, { model: "vmgenid", count: 1 }] },
    says: /has 0 devices vmgenid, the standby's QEMU 1/,
  },
])("$what", ({ primary, standby, says }) => {
  const refusal = compareShapes({ ...shape, ...primary }, { ...shape, ...standby });
  if (says === undefined) {
    expect(refusal).toBeUndefined();
  } else {
    expect(refusal?.message).toMatch(says);
  }
});
