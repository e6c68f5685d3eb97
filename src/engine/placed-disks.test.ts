import { expect, test } from "@jest/globals";
import { type MachineDisk } from "../qemu/machine.ts";
import { placeDisks } from "./placed-disks.ts";

const disk = (difference: Partial<MachineDisk>): MachineDisk => ({
  device: "libvirt-1-format",
  node: "libvirt-1-format",
  qdev: "/machine/peripheral/ua-root/virtio-backend",
  driver: "raw",
  path: "/var/run/kubevirt-private/vmi-disks/root/disk.img",
  bytes: 1024,
  isReadOnly: false,
  isDirect: true,
  isFirmware: false,
  ...difference,
});

const files = { own: (path: string): string => `/proc/7/root${path}`, isFile: () => false };
const root = { id: "root", device: "ua-root" };

test("a disk of a plain host is where its assignment says, and QEMU knows it by its id", () => {
  const { disks, missing } = placeDisks([{ id: "disk0", path: "/disks/web.raw" }], { disks: [] }, files);
  const rest = { isReadOnly: false, isElastic: false, bytesInQemu: undefined };
  expect(disks).toEqual([{ id: "disk0", device: "disk0", path: "/disks/web.raw", ...rest }]);
  expect(missing).toEqual([]);
});

test.each([
  {
    when: "a virtio disk",
    given: disk({}),
    path: "/var/run/kubevirt-private/vmi-disks/root/disk.img",
  },
  {
    when: "a SCSI or SATA disk",
    given: disk({ qdev: "/machine/peripheral/ua-root" }),
    path: disk({}).path,
  },
  {
    when: "a disk known by its id alone",
    given: disk({ qdev: "ua-root" }),
    path: disk({}).path,
  },
  {
    when: "a block device",
    given: disk({ driver: "host_device", path: "/dev/root" }),
    path: "/dev/root",
  },
  {
    when: "options that no name tells",
    given: disk({
      path: 'json:{"driver":"raw","file":{"driver":"file","filename":"/disks/a.img","locking":"off"}}',
    }),
    path: "/disks/a.img",
  },
])("the disk of a pod is where QEMU says: $when", ({ given, path }) => {
  const others = [
    disk({
      qdev: "/machine/peripheral/ua-rootbeer/virtio-backend",
      node: "other",
    }),
  ];
  const { disks, missing } = placeDisks([root], { disks: [...others, given] }, files);
  const rest = { isReadOnly: false, isElastic: false, bytesInQemu: 1024 };
  expect(disks).toEqual([{ id: "root", device: "libvirt-1-format", path: `/proc/7/root${path}`, ...rest }]);
  expect(missing).toEqual([]);
});

test("a disk of the pod takes the size of the other side's", () => {
  const { disks } = placeDisks([{ ...root, isOfPod: true }], { disks: [disk({ isReadOnly: true })] }, files);
  expect(disks).toMatchObject([{ isElastic: true, isReadOnly: true }]);
});

test("so does an image file, which KubeVirt makes of another length on each side", () => {
  const isFile = (path: string): boolean => path === "/proc/7/root/disks/a.img";
  const place = (path: string): boolean | undefined =>
    placeDisks([root], { disks: [disk({ path })] }, { ...files, isFile }).disks[0]?.isElastic;
  expect(place("/disks/a.img")).toBe(true);
  expect(place("/dev/root")).toBe(false);
});

test.each([
  {
    when: "QEMU has no such device",
    disks: [disk({ qdev: "/machine/peripheral/ua-data/virtio-backend" })],
    says: "is not in QEMU",
  },
  {
    when: "it is on the network",
    disks: [disk({ path: "nbd://host/disk" })],
    says: "no block device",
  },
  {
    when: "what QEMU says is no JSON",
    disks: [disk({ path: "json:{" })],
    says: "no block device",
  },
])("a disk that cannot be placed is told: $when", ({ disks, says }) => {
  expect(placeDisks([root], { disks }, files)).toMatchObject({
    disks: [],
    missing: [expect.stringContaining(says)],
  });
});
