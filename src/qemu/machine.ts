/**
 * What the machine inside of one QEMU is: version, RAM blocks, disks, network cards; and what of it cannot be protected.
 *
 * RAM blocks come from the human monitor's `info ramblock`, which QMP has no like of: name, page size, offset
 * (ram_addr_t), used and total size, and from QEMU 8 on the host address.
 *
 * All of them have to be copied, ROMs included. A QEMU that waits for a migration leaves the firmware's block (pc.bios) and
 * others empty, as they come with the stream; a guest taken over without them runs, until it restarts, and then for ever
 * hangs (tried). ACPI tables (`/rom@etc/...`) are written by QEMU when the firmware has laid out PCI and asks for them.
 * The pflash with UEFI's variables is also a drive, but no disk that needs a mirror: QEMU writes the whole block to its
 * file when a loaded guest is started. Only a pflash on a read-only drive is left out: QEMU reads it from there.
 *
 * Obstacles are what a checkpoint would silently get wrong: memory written by other processes, state that QEMU cannot
 * save, disks that a raw copy does not cover. They are reported all at once.
 */
import { type BlockDevice, type RunState } from "./qmp-commands.ts";
import { type QmpClient } from "./qmp-client.ts";
import { QmpFailure } from "./qmp-failure.ts";
import { readMachineType } from "./standby.ts";

export type ListedRamBlock = {
  readonly name: string;
  /** Its ram_addr_t: blocks were allocated in this order, where none was freed since. */
  readonly offset: number;
  readonly bytes: number;
  readonly usedBytes: number;
  /** In QEMU's address space, where QEMU tells. */
  readonly address: bigint | undefined;
  /** The content of a read-only drive that both sides have: need not be copied. */
  readonly isConstant: boolean;
};
export type MachineDisk = {
  /** The name of its -drive, or its node name: what a mirror takes. */
  readonly device: string;
  readonly node: string;
  readonly qdev: string;
  readonly driver: string;
  readonly path: string;
  readonly bytes: number;
  readonly isReadOnly: boolean;
  /** QEMU goes past the page cache. */
  readonly isDirect: boolean;
  /** A pflash: goes with the RAM block of the same name. */
  readonly isFirmware: boolean;
};
export type MachineNic = {
  readonly netdev: string;
  readonly type: string;
  readonly queues: number;
  /** Of the card that it serves. */
  readonly mac: string | undefined;
  /** Of a tap's first queue, by how it was given: QEMU's descriptor, or the name of the interface. */
  readonly fd: number | undefined;
  readonly interfaceName: string | undefined;
};
export type MachineDevice = { readonly path: string; readonly model: string };
export type Machine = {
  readonly qemuVersion: string;
  readonly type: string;
  readonly runState: RunState;
  readonly vcpus: number;
  readonly ramBlocks: readonly ListedRamBlock[];
  readonly disks: readonly MachineDisk[];
  readonly nics: readonly MachineNic[];
  /** All that were asked for when QEMU was started, and what was plugged in since. */
  readonly devices: readonly MachineDevice[];
  /** Every obstacle but those that depend on how output is held; see listObstacles. */
  readonly obstacles: readonly Obstacle[];
};
export type Obstacle = {
  readonly code:
    | "CommandMissing"
    | "DeviceWritesMemoryFromOutside"
    | "DeviceIsOfTheHost"
    | "MigrationBlocked"
    | "DiskNotRaw"
    | "MultiqueueNeedsTheShim"
    | "VhostInUse";
  /** For people: what it is and what to do. */
  readonly message: string;
};

const COMMANDS = ["xen-save-devices-state", "blockdev-mirror", "blockdev-add", "migrate-incoming"] as const;
const FIRMWARE_QDEV = /^[/]machine[/](system[.]flash\d+)$/;
/** Protocol drivers whose bytes are the disk's bytes. */
const RAW_DRIVERS = new Set(["raw", "file", "host_device"]);
const OUTSIDE_WRITER = /^vhost-user-|^vhost-vdpa|^vhost-scsi|^ivshmem/;
const HOST_DEVICE = /^vfio-|^usb-host$|^vhost-vsock|^scsi-(generic|block)$/;

export async function readMachine(qmp: QmpClient): Promise<Machine> {
  const { status } = await qmp.execute("query-status", {});
  const cpus = await qmp.execute("query-cpus-fast", {});
  const blockDevices = await qmp.execute("query-block", {});
  const disks = parseDisks(blockDevices);
  const ramText = await qmp.execute("human-monitor-command", { "command-line": "info ramblock" });
  const nics = parseNics(await qmp.execute("human-monitor-command", { "command-line": "info network" }));
  const devices = await readDevices(qmp);
  const { major, minor, micro } = qmp.version;
  return {
    qemuVersion: `${major}.${minor}.${micro}`,
    type: await readMachineType(qmp),
    runState: status,
    vcpus: cpus.length,
    ramBlocks: parseRamBlocks(ramText, disks),
    disks,
    nics,
    devices,
    obstacles: [
      ...(await listMissingCommands(qmp)),
      ...(await listDeviceObstacles(qmp, devices)),
      ...(await listMigrationBlockers(qmp, status)),
      ...listDiskObstacles(disks),
    ],
  };
}

/** All obstacles. Output held by QEMU's own queues, where the shim is missing, has some more. */
export function listObstacles(machine: Machine, options: { readonly hasShim: boolean }): readonly Obstacle[] {
  if (options.hasShim) {
    return machine.obstacles;
  }
  const multiqueue = machine.nics
    .filter(({ queues }) => queues > 1)
    .map(({ netdev, queues }): Obstacle => ({
      code: "MultiqueueNeedsTheShim",
      message: `${netdev} has ${queues} queues, QEMU's filters take one: start QEMU with the twinrun shim, or use queues=1`,
    }));
  return [...machine.obstacles, ...multiqueue];
}

/** `disks` tells which pflash cannot be written. */
export function parseRamBlocks(text: string, disks: readonly MachineDisk[]): readonly ListedRamBlock[] {
  const readOnlyFirmware = new Set(
    disks.flatMap(({ qdev, isReadOnly }) => (isReadOnly ? [FIRMWARE_QDEV.exec(qdev)?.[1]] : [])),
  );
  const [heading, ...lines] = text.split("\n").filter((line) => line.trim() !== "");
  if (heading?.includes("Block Name") !== true) {
    throw QmpFailure.malformed("info ramblock has no heading");
  }
  return lines.map((line) => {
    // The name may hold blanks (it begins with a device's id), so it is what stands before the page size.
    const fields = /^\s*(.+?)\s+\d+ [KMG]iB\s+(0x\S+)\s+(0x\S+)\s+(0x\S+)(?:\s+(0x\S+)\s+(?:ro|rw))?\s*$/.exec(line);
    const [, name, offset, usedBytes, bytes, address] = fields ?? [];
    if (name === undefined) {
      throw QmpFailure.malformed(`info ramblock has the line "${line.trim()}"`);
    }
    return {
      name,
      offset: Number(offset),
      bytes: Number(bytes),
      usedBytes: Number(usedBytes),
      address: address === undefined ? undefined : BigInt(address),
      isConstant: readOnlyFirmware.has(name),
    };
  });
}

export function parseDisks(devices: readonly BlockDevice[]): readonly MachineDisk[] {
  return devices.flatMap(({ device, qdev = "", inserted }) => {
    if (inserted === undefined) {
      return []; // An empty drive.
    }
    const node = inserted["node-name"] ?? "";
    return [
      {
        device: device === "" ? node : device,
        node,
        qdev,
        driver: inserted.drv,
        path: inserted.file,
        bytes: inserted.image["virtual-size"],
        isReadOnly: inserted.ro,
        isDirect: inserted.cache?.direct ?? false,
        isFirmware: FIRMWARE_QDEV.test(qdev),
      },
    ];
  });
}

const NET_CLIENT = /^\s*(?:\\ )?(\S+): index=\d+,type=([a-z-]+)(.*)$/gm;

/** `info network`: one line for each queue, those of a card's peer begin with a backslash. */
export function parseNics(text: string): readonly MachineNic[] {
  const nics = new Map<string, MachineNic>();
  let mac: string | undefined;
  for (const [, netdev = "", type = "", rest = ""] of text.matchAll(NET_CLIENT)) {
    if (type === "nic") {
      mac = /macaddr=([0-9a-f:]{17})/.exec(rest)?.[1];
      continue;
    }
    const first = nics.get(netdev) ?? { netdev, type, queues: 0, mac, ...parseTap(rest) };
    nics.set(netdev, { ...first, queues: first.queues + 1 });
  }
  return [...nics.values()];
}

function parseTap(description: string): Pick<MachineNic, "fd" | "interfaceName"> {
  const fd = /\bfd=(\d+)/.exec(description)?.[1];
  return { fd: fd === undefined ? undefined : Number(fd), interfaceName: /\bifname=([^,]+)/.exec(description)?.[1] };
}

async function listMissingCommands(qmp: QmpClient): Promise<readonly Obstacle[]> {
  const obstacles: Obstacle[] = [];
  for (const command of COMMANDS) {
    if (!(await qmp.hasCommand(command))) {
      obstacles.push({ code: "CommandMissing", message: QmpFailure.commandMissing(command).message });
    }
  }
  return obstacles;
}

/** Nothing tells when one is plugged in: QEMU has an event for what is taken out only. */
export async function readDevices(qmp: QmpClient): Promise<readonly MachineDevice[]> {
  const devices: MachineDevice[] = [];
  for (const parent of ["/machine/peripheral", "/machine/peripheral-anon"]) {
    for (const { name, type } of await qmp.execute("qom-list", { path: parent })) {
      const model = /^child<(.+)>$/.exec(type)?.[1];
      if (model !== undefined) {
        devices.push({ path: `${parent}/${name}`, model });
      }
    }
  }
  return devices;
}

/** What was plugged in or taken out, for people; undefined when nothing was. */
export function describeDeviceChange(
  before: readonly MachineDevice[],
  after: readonly MachineDevice[],
): string | undefined {
  const list = (these: readonly MachineDevice[], those: readonly MachineDevice[]): readonly string[] =>
    these
      .filter(({ path, model }) => !those.some((other) => other.path === path && other.model === model))
      .map(({ path, model }) => `${model} ${path.slice(path.lastIndexOf("/") + 1)}`);
  const parts = [
    { devices: list(after, before), verb: "plugged in" },
    { devices: list(before, after), verb: "taken out" },
  ];
  const said = parts
    .filter(({ devices }) => devices.length > 0)
    .map(({ devices, verb }) => `${devices.join(", ")} was ${verb}`);
  return said.length === 0 ? undefined : said.join(", ");
}

/** How many there are of each model, sorted: what has to be equal on both sides, whatever each calls them. */
export function countModels(devices: readonly MachineDevice[]): readonly { model: string; count: number }[] {
  const models = devices.map(({ model }) => model).sort();
  return [...new Set(models)].map((model) => ({ model, count: models.filter((other) => other === model).length }));
}

async function listDeviceObstacles(qmp: QmpClient, devices: readonly MachineDevice[]): Promise<readonly Obstacle[]> {
  const obstacles: Obstacle[] = [];
  for (const { path, model } of devices) {
    const name = path.slice(path.lastIndexOf("/") + 1);
    if (OUTSIDE_WRITER.test(model)) {
      const message = `${model} ${name}: another process writes guest memory unseen; use a virtio device of QEMU's own`;
      obstacles.push({ code: "DeviceWritesMemoryFromOutside", message });
    } else if (HOST_DEVICE.test(model)) {
      const message = `${model} ${name} is hardware of this host and cannot follow to another; remove it`;
      obstacles.push({ code: "DeviceIsOfTheHost", message });
    }
    obstacles.push(...(await listVhost(qmp, path, model)));
  }
  return obstacles;
}

/** Neither the card nor its netdev shows in properties that the kernel serves its rings; the running device knows. */
async function listVhost(qmp: QmpClient, path: string, device: string): Promise<readonly Obstacle[]> {
  if (!device.startsWith("virtio-net")) {
    return [];
  }
  const status = await readVhostState(qmp, `${path}/virtio-backend`);
  return status
    ? [
        {
          code: "VhostInUse",
          message: `${path} uses vhost, which writes guest memory unseen; set vhost=off on its netdev`,
        },
      ]
    : [];
}

async function readVhostState(qmp: QmpClient, path: string): Promise<boolean> {
  if (!(await qmp.hasCommand("x-query-virtio-status"))) {
    return false;
  }
  const status = await qmp.execute("x-query-virtio-status", { path });
  return status["vhost-started"] === true;
}

async function listMigrationBlockers(qmp: QmpClient, status: RunState): Promise<readonly Obstacle[]> {
  if (status === "inmigrate") {
    return [];
  }
  const info = await qmp.execute("query-migrate", {});
  return (info["blocked-reasons"] ?? []).map((reason) => ({
    code: "MigrationBlocked",
    message: `QEMU cannot save this machine's state: ${reason}`,
  }));
}

function listDiskObstacles(disks: readonly MachineDisk[]): readonly Obstacle[] {
  return disks
    .filter(({ driver, isReadOnly, isFirmware }) => !isReadOnly && !isFirmware && !RAW_DRIVERS.has(driver))
    .map(({ device, driver, path }) => ({
      code: "DiskNotRaw",
      message: `disk ${device} (${path}) is ${driver}; only raw images and block devices can be protected: put it on a volume`,
    }));
}
