/** What QEMU 7.2 and 10.0 print, taken from them. The whole of it against live QEMUs is in test/contract/qemu-machine.test.ts. */
import { describe, expect, test } from "@jest/globals";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FakeQemu } from "../../test/build/guest-qemu-fake.ts";
import { countModels, describeDeviceChange, parseDisks, parseNics, parseRamBlocks, readMachine } from "./machine.ts";
import { QmpClient } from "./qmp-client.ts";

const RAM_7_2 = `              Block Name    PSize              Offset               Used              Total
                     ram    4 KiB  0x0000000000000000 0x0000000030000000 0x0000000030000000
   0000:00:07.0/vga.vram    4 KiB  0x0000000030500000 0x0000000001000000 0x0000000001000000
           system.flash0    4 KiB  0x0000000030000000 0x000000000037c000 0x000000000037c000
    /rom@etc/acpi/tables    4 KiB  0x0000000031580000 0x0000000000020000 0x0000000000200000
           system.flash1    4 KiB  0x00000000303c0000 0x0000000000084000 0x0000000000084000
0000:00:02.0:00.0/virtio-net-pci.rom    4 KiB  0x00000000304c0000 0x0000000000040000 0x0000000000040000
                isa-bios    4 KiB  0x0000000030380000 0x0000000000020000 0x0000000000020000
                  pc.rom    4 KiB  0x0000000030480000 0x0000000000020000 0x0000000000020000
      /rom@etc/acpi/rsdp    4 KiB  0x00000000317c0000 0x0000000000001000 0x0000000000001000
`;
const RAM_10_0 = `              Block Name    PSize              Offset               Used              Total                HVA  RO
                     ram    2 MiB  0x0000000000000000 0x0000000008000000 0x0000000008000000 0x00007f18abfff000  rw
                 pc.bios    4 KiB  0x0000000008000000 0x0000000000040000 0x0000000000040000 0x00007f18f8200000  ro
`;
const NETWORK = `hub 0
 \\ n0: virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56
virtio-net-pci.1: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:57
 \\ t0: index=0,type=tap,ifname=tap0,script=no,downscript=no
virtio-net-pci.2: index=1,type=nic,
 \\ t0: index=1,type=tap,ifname=tap0,script=no,downscript=no
e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:58
 \\ u0: index=0,type=user,net=10.0.2.0,restrict=off
`;

const image = { filename: "/x", format: "raw", "virtual-size": 512 };
const inserted = { "node-name": "#block1", drv: "raw", ro: false, file: "/x", image };
const device = { device: "disk0", type: "unknown", removable: false, locked: false };
const [codeFlash] = parseDisks([{ ...device, qdev: "/machine/system.flash0", inserted: { ...inserted, ro: true } }]);
const [variablesFlash] = parseDisks([{ ...device, qdev: "/machine/system.flash1", inserted }]);

describe("RAM blocks", () => {
  test("of QEMU 7.2: sizes and offsets, no addresses; what never changes is marked", () => {
    const disks = [codeFlash, variablesFlash].filter((disk) => disk !== undefined);
    const blocks = parseRamBlocks(RAM_7_2, disks);
    expect(blocks).toHaveLength(9);
    expect(blocks[3]).toEqual({
      name: "/rom@etc/acpi/tables",
      offset: 0x31580000,
      bytes: 0x200000,
      usedBytes: 0x20000,
      address: undefined,
      isConstant: false,
    });
    expect(blocks.filter(({ isConstant }) => isConstant).map(({ name }) => name)).toEqual(["system.flash0"]);
  });

  test("of QEMU 10: with addresses", () => {
    const blocks = parseRamBlocks(RAM_10_0, []);
    expect(blocks.map(({ name, address, isConstant }) => [name, address, isConstant])).toEqual([
      ["ram", 0x7f18abfff000n, false],
      ["pc.bios", 0x7f18f8200000n, false],
    ]);
  });

  test.each([
    ["no heading", "unknown command: 'info ramblock'\n"],
    ["a line of another form", `${RAM_10_0}something new\n`],
  ])("%s is an error, not a machine without memory", (_what, text) => {
    expect(() => parseRamBlocks(text, [])).toThrow(expect.objectContaining({ name: "QmpMalformed" }));
  });
});

test("network cards: a line for each queue, hubs left out", () => {
  expect(parseNics(NETWORK)).toEqual([
    { netdev: "t0", type: "tap", queues: 2, mac: "52:54:00:12:34:57", fd: undefined, interfaceName: "tap0" },
    { netdev: "u0", type: "user", queues: 1, mac: "52:54:00:12:34:58", fd: undefined, interfaceName: undefined },
  ]);
  const passed = "net0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:59\n \\ hostnet0: index=0,type=tap,fd=30\n";
  expect(parseNics(passed)).toEqual([
    { netdev: "hostnet0", type: "tap", queues: 1, mac: "52:54:00:12:34:59", fd: 30, interfaceName: undefined },
  ]);
});

test("disks: by drive or node name, empty drives left out, firmware told apart", () => {
  const named = { ...device, device: "", inserted: { ...inserted, "node-name": "node0" } };
  const disks = parseDisks([{ ...device, inserted }, named, { ...device, removable: true }]);
  expect(disks.map(({ device: name, bytes, isFirmware }) => [name, bytes, isFirmware])).toEqual([
    ["disk0", 512, false],
    ["node0", 512, false],
  ]);
  expect(codeFlash).toMatchObject({ isFirmware: true, isReadOnly: true });
});

test("a QEMU without a command that is needed is an obstacle that names the command and the remedy", async () => {
  const directory = mkdtempSync(join(tmpdir(), "twinrun-machine-"));
  const fake = await FakeQemu.listen(join(directory, "qmp"));
  const names = ["xen-save-devices-state", "blockdev-add", "migrate-incoming"];
  const answers: Readonly<Record<string, unknown>> = {
    "query-commands": names.map((name) => ({ name })),
    "query-cpus-fast": [],
    "query-block": [],
    "human-monitor-command": RAM_7_2,
    "qom-get": "pc-i440fx-7.2-machine",
    "qom-list": [],
    "query-migrate": {},
  };
  for (const [command, answer] of Object.entries(answers)) {
    fake.commands.set(command, () => ({ return: answer }));
  }
  const qmp = await QmpClient.connect(join(directory, "qmp"));
  try {
    const { obstacles } = await readMachine(qmp);
    expect(obstacles).toEqual([
      {
        code: "CommandMissing",
        message: "this QEMU has no command blockdev-mirror; use a build that has it (Debian's and KubeVirt's do)",
      },
    ]);
  } finally {
    qmp.close();
    fake.close();
    rmSync(directory, { recursive: true });
  }
});

describe("devices", () => {
  const disk = { path: "/machine/peripheral/disk0", model: "virtio-blk-pci" };
  const card = { path: "/machine/peripheral-anon/device[0]", model: "virtio-net-pci" };
  const same = { ...card, path: disk.path };

  test.each([
    ["nothing", [disk, card], [card, disk], undefined],
    ["one more", [disk], [disk, card], "virtio-net-pci device[0] was plugged in"],
    ["one less", [disk, card], [card], "virtio-blk-pci disk0 was taken out"],
    ["another of that name", [disk], [same], "virtio-net-pci disk0 was plugged in, virtio-blk-pci disk0 was taken out"],
  ])("%s has changed", (_, before, after, says) => {
    expect(describeDeviceChange(before, after)).toBe(says);
  });

  test("are counted by what they are, not by what they are called", () => {
    const other = { path: "/machine/peripheral/ua-disk", model: disk.model };
    expect(countModels([card, disk, other])).toEqual([
      { model: "virtio-blk-pci", count: 2 },
      { model: "virtio-net-pci", count: 1 },
    ]);
  });
});
