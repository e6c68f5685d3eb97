/**
 * The guests of the lab: how QEMU is started for each, with which addresses, and what can be asked of it.
 *
 * The argument lists are complete but for what the agent adds itself (-S, -incoming, -qmp, and the global that drops the
 * configuration section), so the same list starts an unprotected guest as a baseline, a primary and a standby.
 *
 * What matters about them: RAM is a shared memfd (the only kind whose dirty pages can be tracked from outside), NICs are taps
 * without vhost, disks are raw files whose block node carries the id the engine is told, an I/O error stops the guest instead
 * of reaching it. Devices that are not needed are left out: each adds to the device state that every checkpoint saves.
 */
import { dirname, join } from "node:path";
import { assert, present } from "../../src/lib/assert.ts";

export type GuestImage = {
  readonly kernel: string;
  readonly initrd: string;
  /** The disk to start from; a guest without one gets an empty disk. */
  readonly rootDisk?: string;
};

export type GuestNic = { readonly tap: string; readonly mac: string; readonly address: string };
export type GuestDisk = { readonly id: string; readonly path: string; readonly sizeBytes: number };

export type GuestKind = "busybox" | "debian";

/** What a guest of KubeVirt has besides, each of which does something of its own under protection. */
export type GuestDevice = "agent" | "balloon" | "panic" | "panic-pauses" | "watchdog";

export type GuestOptions = {
  readonly vcpuCount: number;
  readonly memoryMiB: number;
  /** A standard VGA adapter: 16 MiB more of RAM that changes. Nothing listens; the display itself is off. */
  readonly display: boolean;
  /**
   * UEFI from pflash: where the code and this guest's own variables are. With one vCPU only: Debian 12's OVMF falls over when it
   * starts the second one of an emulated i440FX machine.
   */
  readonly firmware?: { readonly code: string; readonly variables: string };
  /** Whether a virtio notification goes through an eventfd to the main loop, or is served by the vCPU thread itself. */
  readonly ioeventfd: boolean;
  /** Whether the disk image is opened with O_DIRECT. */
  readonly directDisk: boolean;
  /** A monitor for somebody else, as libvirt has one: the serial log's path and `.qmp`. */
  readonly secondMonitor: boolean;
  readonly devices: readonly GuestDevice[];
};

export type GuestSpec = {
  readonly name: string;
  readonly kind: GuestKind;
  readonly image: GuestImage;
  readonly nics: readonly GuestNic[];
  readonly disks: readonly GuestDisk[];
  readonly serialLog: string;
  readonly options: GuestOptions;
};

export const qemuBinary = "qemu-system-x86_64";

/** The lab's guest network; clients and guests are in it, hosts are not. */
export const guestNetworkBits = 24;

/** Ports of the services inside the guests (test/lab/images). */
export const guestPorts = {
  ...{ synced: 7000, burn: 7100, echo: 7200, sectors: 7300, acts: 7400 },
  ...{ redis: 6379, postgres: 5432 },
} as const;

/** How the synced service lays its numbers out on the disk; see test/lab/images/busybox/serve-synced.sh. */
export const syncedLayout = { connectionsMax: 16, sectorsEach: 16_384, sectorBytes: 512 } as const;

const MIB = 1024 * 1024;

export const defaultDiskBytes: Readonly<Record<GuestKind, number>> = { busybox: 128 * MIB, debian: 3072 * MIB };

const plain = { vcpuCount: 1, display: false, ioeventfd: true, directDisk: false, secondMonitor: false, devices: [] };
export const defaultOptions: Readonly<Record<GuestKind, GuestOptions>> = {
  busybox: { ...plain, memoryMiB: 128 },
  debian: { ...plain, memoryMiB: 768 },
};

/** The whole argument list of QEMU for `guest`, without what the agent adds. */
export function listGuestArguments(guest: GuestSpec): string[] {
  const { options } = guest;
  assert(
    options.firmware === undefined || options.vcpuCount === 1,
    "a guest with firmware has one vCPU, see GuestOptions",
  );
  assert(guest.disks.length > 0 && guest.nics.length > 0, `guest ${guest.name} needs a disk and a NIC`);
  return [
    ...["-name", guest.name, "-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg"],
    ...["-machine", `${guest.kind === "debian" ? "q35" : "pc"},memory-backend=ram,usb=off,vmport=off`],
    ...["-cpu", "max", "-m", `${options.memoryMiB}M`, "-smp", String(options.vcpuCount)],
    ...["-object", `memory-backend-memfd,id=ram,size=${options.memoryMiB}M,share=on`],
    ...["-chardev", `file,id=serial0,path=${guest.serialLog},append=on`, "-serial", "chardev:serial0"],
    ...(options.secondMonitor ? listMonitorArguments(secondMonitorOf(guest)) : []),
    ...(options.display ? ["-vga", "std"] : ["-vga", "none"]),
    ...options.devices.flatMap((device) => listDeviceArguments(device, guest)),
    ...listFirmwareArguments(options),
    ...["-kernel", guest.image.kernel, "-initrd", guest.image.initrd, "-append", kernelCommandLine(guest)],
    ...guest.nics.flatMap((nic, index) => listNicArguments(nic, index, options)),
    ...guest.disks.flatMap((disk) => listDiskArguments(disk, options)),
  ];
}

export const secondMonitorOf = ({ serialLog }: GuestSpec): string => `${serialLog}.qmp`;

/** The channel to the agent in the guest, as libvirt names it. */
export const agentChannelOf = ({ disks }: GuestSpec): string =>
  join(dirname(present(disks[0], "a disk").path), "org.qemu.guest_agent.0");

function listDeviceArguments(device: GuestDevice, guest: GuestSpec): string[] {
  switch (device) {
    case "agent":
      return [
        ...["-device", "virtio-serial-pci,id=serial-bus"],
        ...["-chardev", `socket,id=agent,path=${agentChannelOf(guest)},server=on,wait=off`],
        ...["-device", "virtserialport,bus=serial-bus.0,chardev=agent,name=org.qemu.guest_agent.0"],
      ];
    case "balloon":
      return ["-device", "virtio-balloon-pci,id=balloon0"];
    case "panic":
      return ["-device", "pvpanic"];
    case "panic-pauses": // As libvirt has it, which then does what its domain says of that.
      return ["-device", "pvpanic", "-action", "panic=pause"];
    case "watchdog":
      return ["-device", "i6300esb", "-action", "watchdog=poweroff"];
  }
}

function kernelCommandLine({ kind, nics }: GuestSpec): string {
  const addresses = nics.map(
    ({ address }, index) => `twinrun.ip${index === 0 ? "" : String(index)}=${address}/${guestNetworkBits}`,
  );
  const root = kind === "debian" ? ["root=/dev/vda", "rw", "fsck.mode=skip", "net.ifnames=1"] : ["rdinit=/init"];
  // panic=1 turns a guest that fell over into a reboot that the clients see, instead of silence.
  return ["console=ttyS0", "quiet", "panic=1", "random.trust_cpu=on", ...root, ...addresses].join(" ");
}

function listMonitorArguments(path: string): string[] {
  const chardev = `socket,id=second-monitor,path=${path},server=on,wait=off`;
  return ["-chardev", chardev, "-mon", "chardev=second-monitor,mode=control"];
}

function listFirmwareArguments({ firmware }: GuestOptions): string[] {
  return firmware === undefined
    ? []
    : [
        ...["-drive", `if=pflash,format=raw,unit=0,readonly=on,file=${firmware.code}`],
        ...["-drive", `if=pflash,format=raw,unit=1,file=${firmware.variables}`],
      ];
}

function listNicArguments({ tap, mac }: GuestNic, index: number, options: GuestOptions): string[] {
  return [
    ...["-netdev", `tap,id=net${index},ifname=${tap},script=no,downscript=no,vhost=off`],
    ...["-device", `virtio-net-pci,netdev=net${index},mac=${mac},romfile=,ioeventfd=${onOff(options.ioeventfd)}`],
  ];
}

function listDiskArguments({ id, path }: GuestDisk, options: GuestOptions): string[] {
  const cache = `cache.direct=${onOff(options.directDisk)},cache.no-flush=off`;
  return [
    ...["-blockdev", `driver=file,node-name=${id}-file,filename=${path},discard=unmap,${cache}`],
    ...["-blockdev", `driver=raw,node-name=${id},file=${id}-file,discard=unmap,${cache}`],
    ...[
      "-device",
      `virtio-blk-pci,drive=${id},id=${id}-device,werror=stop,rerror=stop,ioeventfd=${onOff(options.ioeventfd)}`,
    ],
  ];
}

const onOff = (flag: boolean): "on" | "off" => (flag ? "on" : "off");
