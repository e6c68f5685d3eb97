/**
 * The libvirt domain of a VMI as KubeVirt's converter writes it, for what the lab supports; pure.
 *
 * Same names, models, aliases and order as there (test/golden/hook/kubevirt.xml is a real one); always emulated.
 */
import {
  type Vmi,
  type VmiDisk,
  type VmiInterface,
  type VmiVolume,
  cloudInitPathOf,
  containerDiskPathOf,
  countVcpus,
  devicePathOf,
  diskPathOf,
  domainNameOf,
  emptyDiskPathOf,
  isBlockVolume,
  overlayPathOf,
  podPaths,
  readMemoryBytes,
} from "./vmi.ts";
import { tapNameOf } from "./interfaces.ts";

type Attributes = Readonly<Record<string, string | number | undefined>>;

/** Of the images of containerDisks, by volume. */
export type ImageFormats = ReadonlyMap<string, string>;

export function encodeDomain(vmi: Vmi, formats: ImageFormats = new Map()): string {
  const { uid } = vmi.metadata;
  const content = [
    element("name", {}, [escapeText(domainNameOf(vmi))]),
    element("memory", { unit: "b" }, [String(readMemoryBytes(vmi.spec))]),
    ...encodeFirmware(vmi),
    element("devices", {}, encodeDevices(vmi, formats)),
    element("clock", { offset: "utc", adjustment: "reset" }),
    `<metadata><kubevirt xmlns="http://kubevirt.io"><uid>${uid}</uid><graceperiod><deletionGracePeriodSeconds>${
      vmi.spec.terminationGracePeriodSeconds ?? 30
    }</deletionGracePeriodSeconds></graceperiod></kubevirt></metadata>`,
    element("features", {}, [element("acpi"), element("apic")]),
    ...encodeProcessor(vmi),
    element("iothreads", {}, ["1"]),
  ];
  return element("domain", { type: "qemu", "xmlns:qemu": "http://libvirt.org/schemas/domain/qemu/1.0" }, content);
}

function encodeFirmware({ metadata, spec: { domain } }: Vmi): string[] {
  const { uuid, serial, kernelBoot } = domain.firmware ?? {};
  const kernel = kernelBoot?.container;
  const entries = { uuid, serial, manufacturer: "KubeVirt", family: "KubeVirt", product: "None" };
  return [
    ...(uuid === undefined ? [] : [element("uuid", {}, [escapeText(uuid)])]),
    element("os", {}, [
      element("type", { arch: "x86_64", machine: domain.machine?.type ?? "q35" }, ["hvm"]),
      element("smbios", { mode: "sysinfo" }),
      ...(kernel?.kernelPath === undefined ? [] : [element("kernel", {}, [`${podPaths.kernelBoot}/kernel`])]),
      ...(kernel?.initrdPath === undefined ? [] : [element("initrd", {}, [`${podPaths.kernelBoot}/initrd`])]),
      ...(kernelBoot?.kernelArgs === undefined ? [] : [element("cmdline", {}, [escapeText(kernelBoot.kernelArgs)])]),
    ]),
    element("sysinfo", { type: "smbios" }, [
      element("system", {}, [
        ...Object.entries(entries).flatMap(([name, value]) =>
          value === undefined ? [] : [element("entry", { name }, [escapeText(value)])],
        ),
        ...(uuid === undefined ? [element("entry", { name: "sku" }, [escapeText(metadata.name)])] : []),
      ]),
    ]),
  ];
}

function encodeProcessor({ spec }: Vmi): string[] {
  const { model, sockets = 1, cores = 1, threads = 1, maxSockets } = spec.domain.cpu ?? {};
  const [now, most] = [countVcpus(spec), Math.max(maxSockets ?? sockets, sockets) * cores * threads];
  const topology = element("topology", { sockets: Math.max(maxSockets ?? sockets, sockets), cores, threads });
  const attributes = { placement: "static", current: most > now ? now : undefined };
  return [
    isNamedModel(model)
      ? element("cpu", { mode: "custom" }, [element("model", {}, [escapeText(model)]), topology])
      : element("cpu", { mode: "maximum" }, [topology]),
    element("vcpu", attributes, [String(most)]),
  ];
}

/** Under emulation there is no host whose model could be taken. */
const isNamedModel = (model: string | undefined): model is string =>
  model !== undefined && model !== "host-model" && model !== "host-passthrough";

function encodeDevices(vmi: Vmi, formats: ImageFormats): string[] {
  const { spec, metadata } = vmi;
  const { devices } = spec.domain;
  const ownDirectory = `${podPaths.private}/${metadata.uid}`;
  const letters = new Map<string, number>();
  return [
    ...(devices.interfaces ?? []).filter(({ state }) => state !== "absent").map((nic) => encodeInterface(vmi, nic)),
    element("channel", { type: "unix" }, [element("target", { name: "org.qemu.guest_agent.0", type: "virtio" })]),
    element("controller", { type: "usb", index: 0, model: "none" }),
    element("controller", { type: "scsi", index: 0, model: "virtio-non-transitional" }),
    element("controller", { type: "virtio-serial", index: 0, model: "virtio-non-transitional" }),
    ...(devices.autoattachGraphicsDevice === false ? [] : encodeGraphics(ownDirectory)),
    ...(devices.autoattachMemBalloon === false ? [element("memballoon", { model: "none" })] : encodeBalloon(vmi)),
    ...(devices.disks ?? []).map((disk) => encodeDisk(vmi, disk, { letters, formats })),
    ...(devices.autoattachSerialConsole === false ? [] : encodeSerial(ownDirectory)),
    ...(devices.rng === undefined ? [] : encodeRandom()),
  ];
}

function encodeGraphics(ownDirectory: string): string[] {
  return [
    element("video", {}, [element("model", { type: "vga", heads: 1, vram: 16384 })]),
    element("graphics", { type: "vnc" }, [element("listen", { type: "socket", socket: `${ownDirectory}/virt-vnc` })]),
  ];
}

function encodeBalloon({ metadata }: Vmi): string[] {
  const isOff = metadata.annotations?.["kubevirt.io/free-page-reporting-disabled"] === "true";
  const attributes = { model: "virtio-non-transitional", freePageReporting: isOff ? "off" : "on" };
  return [element("memballoon", attributes, [element("stats", { period: 10 })])];
}

function encodeSerial(ownDirectory: string): string[] {
  return [
    element("serial", { type: "unix" }, [
      element("target", { port: 0 }),
      element("source", { mode: "bind", path: `${ownDirectory}/virt-serial0` }),
      // KubeVirt's own: what the guest says stays readable in the pod.
      element("log", { file: `${ownDirectory}/virt-serial0-log`, append: "on" }),
    ]),
    element("console", { type: "pty" }, [element("target", { type: "serial", port: 0 })]),
  ];
}

const encodeRandom = (): string[] => [
  element("rng", { model: "virtio-non-transitional" }, [element("backend", { model: "random" }, ["/dev/urandom"])]),
];

function encodeInterface(vmi: Vmi, nic: VmiInterface): string {
  return element("interface", { type: "ethernet" }, [
    element("source"),
    element("target", { dev: tapNameOf(vmi.spec, nic), managed: "no" }),
    element("model", {
      type: nic.model === undefined || nic.model === "virtio" ? "virtio-non-transitional" : nic.model,
    }),
    ...(nic.macAddress === undefined ? [] : [element("mac", { address: nic.macAddress })]),
    ...(nic.state === "down" ? [element("link", { state: "down" })] : []),
    element("mtu", { size: 1500 }),
    element("alias", { name: `ua-${nic.name}` }),
    element("rom", { enabled: "no" }),
  ]);
}

type DiskContext = { readonly letters: Map<string, number>; readonly formats: ImageFormats };

function encodeDisk(vmi: Vmi, disk: VmiDisk, { letters, formats }: DiskContext): string {
  const isCdrom = disk.cdrom !== undefined;
  const bus = busOf(disk);
  const volume = (vmi.spec.volumes ?? []).find(({ name }) => name === disk.name);
  const model = bus === "virtio" ? "virtio-non-transitional" : undefined;
  const device = isCdrom ? "cdrom" : "disk";
  const isBlock = isBlockVolume(vmi, disk.name);
  return element("disk", { device, type: isBlock ? "block" : "file", model }, [
    element("source", isBlock ? { dev: devicePathOf(disk.name) } : { file: locateVolume(vmi, disk.name, volume) }),
    element("target", { bus, dev: nextDevice(bus, letters), tray: isCdrom ? "closed" : undefined }),
    element("driver", { ...driverOf(volume, disk), name: "qemu", type: isQcow2(volume) ? "qcow2" : "raw" }),
    ...(disk.serial === undefined ? [] : [element("serial", {}, [escapeText(disk.serial)])]),
    ...(isCdrom || disk.disk?.readonly === true ? [element("readonly")] : []),
    element("alias", { name: `ua-${disk.name}` }),
    ...(volume?.containerDisk === undefined ? [] : [encodeBacking(vmi, disk.name, formats.get(disk.name) ?? "raw")]),
  ]);
}

const isQcow2 = (volume: VmiVolume | undefined): boolean =>
  volume?.containerDisk !== undefined || volume?.emptyDisk !== undefined;

const encodeBacking = ({ spec }: Vmi, volume: string, format: string): string =>
  element("backingStore", { type: "file" }, [
    element("format", { type: format }),
    element("source", { file: containerDiskPathOf(spec, volume) }),
  ]);

const busOf = ({ cdrom, disk }: VmiDisk): string =>
  (cdrom === undefined ? disk?.bus : cdrom.bus) ?? (cdrom === undefined ? "virtio" : "sata");

/** vda, vdb, …; sda, sdb, …. */
function nextDevice(bus: string, letters: Map<string, number>): string {
  const prefix = bus === "virtio" ? "vd" : "sd";
  const index = letters.get(prefix) ?? 0;
  letters.set(prefix, index + 1);
  return `${prefix}${String.fromCodePoint(97 + index)}`;
}

function driverOf(volume: VmiVolume | undefined, disk: VmiDisk): Attributes {
  const error_policy = disk.errorPolicy ?? "stop";
  return volume?.cloudInitNoCloud === undefined
    ? { cache: disk.cache ?? "none", error_policy, discard: "unmap" }
    : { cache: disk.cache, error_policy };
}

function locateVolume(vmi: Vmi, name: string, volume: VmiVolume | undefined): string {
  if (volume?.cloudInitNoCloud !== undefined) {
    return cloudInitPathOf(vmi);
  }
  if (volume?.containerDisk !== undefined) {
    return overlayPathOf(name);
  }
  return volume?.emptyDisk === undefined ? diskPathOf(name) : emptyDiskPathOf(name);
}

function element(name: string, attributes: Attributes = {}, content: readonly string[] = []): string {
  const given = Object.entries(attributes).flatMap(([key, value]) =>
    value === undefined ? [] : [` ${key}="${escapeText(String(value))}"`],
  );
  return `<${name}${given.join("")}>${content.join("")}</${name}>`;
}

const escapes: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escapeText = (text: string): string => text.replaceAll(/[&<>"]/g, (char) => escapes[char] ?? char);
