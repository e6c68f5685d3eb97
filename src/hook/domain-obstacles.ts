/**
 * What of a libvirt domain cannot be protected. The engine looks again at the QEMU that runs (src/qemu/machine.ts uses the
 * same codes); here it is said before the guest has booted, and all at once.
 *
 * Multiqueue network cards are no obstacle: the shim holds what every queue sends.
 */
import { findChild, listChildren, readAttribute, type XmlElement } from "../lib/xml-document.ts";

export type DomainObstacle = {
  readonly code:
    | "DeviceWritesMemoryFromOutside"
    | "DeviceIsOfTheHost"
    | "DeviceStateIsElsewhere"
    | "DiskNotRaw"
    | "DiskIsShared"
    | "OutputCannotBeHeld"
    | "HugePages"
    | "MemoryHotplug"
    | "MemoryEncrypted";
  /** For people: what it is and what to do. */
  readonly message: string;
};

/** Where KubeVirt keeps the images of emptyDisks, and the read-only ones underneath containerDisks. */
const EMPTY_DISKS = "/var/run/libvirt/empty-disks/";
const CONTAINER_DISKS = "/var/run/kubevirt/container-disks/";

export function listDomainObstacles(domain: XmlElement): readonly DomainObstacle[] {
  const devices = findChild(domain, "devices")?.children ?? [];
  return [...listMemoryObstacles(domain), ...devices.flatMap((device) => listDeviceObstacles(device))];
}

function listMemoryObstacles(domain: XmlElement): readonly DomainObstacle[] {
  const obstacles: DomainObstacle[] = [];
  if (findChild(findChild(domain, "memoryBacking"), "hugepages") !== undefined) {
    // A write of one byte makes a page dirty: at 2 MiB each, an epoch of a calm guest is hundreds of MiB.
    const message =
      "the memory is in huge pages, which would be sent whole at every checkpoint; remove memory.hugepages";
    obstacles.push({ code: "HugePages", message });
  }
  if (findChild(domain, "launchSecurity") !== undefined) {
    const message = "the memory is encrypted (launchSecurity) and cannot be copied; remove it";
    obstacles.push({ code: "MemoryEncrypted", message });
  }
  return obstacles;
}

function listDeviceObstacles(device: XmlElement): readonly DomainObstacle[] {
  const name = nameOf(device);
  switch (device.name) {
    case "interface":
      return listInterfaceObstacles(readAttribute(device, "type") ?? "no type", name);
    case "disk":
      return listDiskObstacles(device, name);
    case "video":
      return listVideoObstacles(device, name);
    default: {
      const refuse = REFUSED_DEVICES.get(device.name);
      return refuse === undefined ? [] : [refuse(name)];
    }
  }
}

function listVideoObstacles(video: XmlElement, name: string): readonly DomainObstacle[] {
  const driver = readAttribute(findChild(video, "driver"), "name");
  return driver === "vhostuser"
    ? [writesMemory(`${name} is drawn by another process`, "use a video device of QEMU's own")]
    : [];
}

function listInterfaceObstacles(type: string, name: string): readonly DomainObstacle[] {
  switch (type) {
    case "ethernet":
    case "bridge":
      return [];
    case "vhostuser":
    case "vdpa":
      return [writesMemory(`${name} (${type}) is served outside of QEMU`, "use a bridge, masquerade or tap binding")];
    case "hostdev":
      return [isOfHost(name)];
    default: {
      const message = `${name} (${type}) is no tap, and only what leaves by a tap can be held; use a bridge binding`;
      return [{ code: "OutputCannotBeHeld", message }];
    }
  }
}

function listDiskObstacles(disk: XmlElement, name: string): readonly DomainObstacle[] {
  const type = readAttribute(disk, "type") ?? "";
  const device = readAttribute(disk, "device") ?? "disk";
  if (/^vhost/.test(type)) {
    return [
      writesMemory(`${name} (${type}) is served outside of QEMU`, "use a volume with a raw image or block device"),
    ];
  }
  if (device === "lun") {
    return [isOfHost(name)];
  }
  if (device === "cdrom" || findChild(disk, "readonly") !== undefined) {
    return [];
  }
  if (findChild(disk, "shareable") !== undefined) {
    return [{ code: "DiskIsShared", message: `${name} is shared with other guests; give this one a disk of its own` }];
  }
  return listFormatObstacles(disk, name);
}

function listFormatObstacles(disk: XmlElement, name: string): readonly DomainObstacle[] {
  const format = readAttribute(findChild(disk, "driver"), "type") ?? "raw";
  const message = `${name} is ${format}; only raw images and block devices can be protected: put it on a volume (PVC)`;
  return format === "raw" || isPodImage(disk) ? [] : [{ code: "DiskNotRaw", message }];
}

/** A containerDisk or emptyDisk: the engine makes it raw before the guest runs. */
function isPodImage(disk: XmlElement): boolean {
  const fileOf = (element: XmlElement | undefined): string => readAttribute(findChild(element, "source"), "file") ?? "";
  return fileOf(disk).startsWith(EMPTY_DISKS) || fileOf(findChild(disk, "backingStore")).startsWith(CONTAINER_DISKS);
}

const writesMemory = (what: string, remedy: string): DomainObstacle => ({
  code: "DeviceWritesMemoryFromOutside",
  message: `${what}, by a process that writes guest memory unseen; ${remedy}`,
});

const isOfHost = (name: string): DomainObstacle => ({
  code: "DeviceIsOfTheHost",
  message: `${name} is hardware of this host and cannot follow to another; remove it`,
});

/** Devices that are an obstacle whatever they are set to. */
const REFUSED_DEVICES: ReadonlyMap<string, (name: string) => DomainObstacle> = new Map([
  ["filesystem", (name) => writesMemory(`${name} is shared with the host or served by virtiofsd`, "use a disk")],
  ["vsock", (name) => writesMemory(`${name} is served by the host's kernel`, "remove it")],
  ["shmem", (name) => writesMemory(`${name} is memory shared with other programs`, "remove it")],
  ["hostdev", isOfHost],
  [
    "tpm",
    (name) => ({
      code: "DeviceStateIsElsewhere",
      message: `${name} keeps its state outside of QEMU, where no checkpoint reaches it; remove the TPM`,
    }),
  ],
  [
    "memory",
    (name) => ({
      code: "MemoryHotplug",
      message: `${name} can be plugged in and out; give the guest all its memory (memory.maxGuest = memory.guest)`,
    }),
  ],
]);

/** `disk rootdisk`, as the VMI calls it; libvirt's aliases of users begin with ua-. */
function nameOf(device: XmlElement): string {
  const alias = readAttribute(listChildren(device, "alias")[0], "name");
  const target = readAttribute(findChild(device, "target"), "dev");
  const name = alias?.replace(/^ua-/, "") ?? target;
  return name === undefined ? device.name : `${device.name} ${name}`;
}
