/**
 * A real QEMU with a small guest, for tests of src/qemu: started directly, without agent, engine or lab.
 *
 * Two guests. `sector` is a boot sector, up in half a second: for ever, it counts in memory, writes the count to its disk
 * and waits 10 ms, with the firmware's own services, so most of the time firmware code runs. `linux` is the lab's busybox
 * image with another init put over it (Linux takes initramfs archives laid end to end, the later file wins): it counts on
 * its serial line and does what `load` says: `disk` writes and syncs, `memory` dirties memory, `net` sends numbered syslog
 * datagrams.
 */
import { execFile, type ChildProcess, spawn } from "node:child_process";
import { closeSync, existsSync, fstatSync, openSync, readdirSync, readFileSync, readlinkSync, readSync } from "node:fs";
import { truncateSync, writeFileSync, writeSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { SHIM_PATH } from "../../src/memory/fake-guest.ts";
import { type PlacedBlock, planRamBlocks } from "../../src/memory/ram-blocks.ts";
import { openShim } from "../../src/memory/shim.ts";
import { readMachine } from "../../src/qemu/machine.ts";
import { connectWithRetry, type QmpClient } from "../../src/qemu/qmp-client.ts";
import { provideImage } from "../lab/images.ts";

export type QemuBuild = { readonly name: string; readonly binary: string };
export type GuestLoad = "disk" | "memory" | "net";
export type GuestQemuOptions = {
  readonly build: QemuBuild;
  readonly directory: string;
  /** Linux with these loads; without, the boot sector. */
  readonly load?: readonly GuestLoad[];
  readonly machine?: "pc" | "q35";
  /** What the disk is; a qcow2 one is an empty overlay over the raw one. Raw and virtio unless told. */
  readonly disk?: { readonly format: "raw" | "qcow2"; readonly bus: "virtio" | "scsi" | "sata" };
  readonly extra?: readonly string[];
};

const run = promisify(execFile);
const MEMORY_MIB = 96;
const DISK_BYTES = 32 << 20;
const COPY_BYTES = 4 << 20;
/** Where the boot sector counts, in memory; on its disk the count is at the beginning of the third sector. */
const COUNT_ADDRESS = 0x9000;
export const COUNT_DISK_OFFSET = 2 * 512;

/**
 *          xor ax,ax / mov ds,ax / mov es,ax / mov ss,ax / mov sp,7c00h / sti
 *   again: mov dx,3f8h / mov al,'.' / out dx,al / inc dword [9000h]
 *          mov ax,0301h / mov bx,9000h / mov cx,3 / mov dx,80h / int 13h     ; write sector 3 of the disk
 *          mov ah,86h / xor cx,cx / mov dx,10000 / int 15h / jmp again       ; wait 10,000 us
 */
const BOOT_SECTOR = Buffer.from(
  "31c08ed88ec08ed0bc007cfb" +
    "baf803b02eee66ff060090" +
    "b80103bb0090b90300ba8000cd13" +
    "b48631c9ba1027cd15ebdc" +
    "00".repeat(510 - 48) +
    "55aa",
  "hex",
);

const INIT = `#!/bin/busybox sh
/bin/busybox mkdir -p /bin /dev /proc /sys /tmp
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
while read -r module; do insmod "/modules/$module.ko"; done </modules/order
dmesg -n 1
read -r arguments </proc/cmdline
case $arguments in *disk*)
  while :; do dd if=/dev/urandom of=/dev/vda bs=4k count=16 seek=$((RANDOM % 8000)) conv=fsync; done >/dev/null 2>&1 & ;;
esac
case $arguments in *memory*)
  while :; do dd if=/dev/urandom of=/tmp/memory bs=64k count=16; done >/dev/null 2>&1 & ;;
esac
case $arguments in *net*)
  echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
  ip link set eth0 arp off
  ip link set eth0 up
  ip address add 10.99.0.2/24 dev eth0
  syslogd -R 10.99.0.1:514
  sleep 1
  (i=0; while :; do i=$((i + 1)); logger "packet $i."; usleep 10000; done) & ;;
esac
echo "GUEST READY"
i=0
while :; do i=$((i + 1)); echo "tick $i"; usleep 20000; done
`;

/** The machine's own QEMU and Debian 13's. */
export async function provideQemuBuilds(): Promise<readonly QemuBuild[]> {
  const script = new URL("../lab/qemu10.sh", import.meta.url).pathname;
  const { stdout } = await run("bash", [script]);
  return [
    { name: "QEMU of this host", binary: "qemu-system-x86_64" },
    { name: "QEMU 10", binary: stdout.trim() },
  ];
}

export class GuestQemu {
  readonly directory: string;
  readonly qmp: QmpClient;
  readonly process: ChildProcess;
  readonly #options: GuestQemuOptions;

  private constructor(options: GuestQemuOptions, process: ChildProcess, qmp: QmpClient) {
    this.directory = options.directory;
    this.#options = options;
    this.process = process;
    this.qmp = qmp;
  }

  /** Returns when the monitor answers; the guest boots on. */
  static async start(options: GuestQemuOptions): Promise<GuestQemu> {
    const { directory } = options;
    await mkdir(directory, { recursive: true });
    const disk = join(directory, "disk.raw");
    if (!existsSync(disk)) {
      writeFileSync(disk, "");
      truncateSync(disk, DISK_BYTES);
      writeFileSync(disk, BOOT_SECTOR, { flag: "r+" });
    }
    if (options.disk?.format === "qcow2") {
      await run("qemu-img", ["create", "-f", "qcow2", "-b", disk, "-F", "raw", join(directory, "disk.qcow2")]);
    }
    const log = openSync(join(directory, "qemu.log"), "w");
    // setpriv: a QEMU that is left over because a test died would burn the machine's processors for ever.
    const command = ["--pdeathsig", "KILL", options.build.binary, ...(await listArguments(options))];
    // The shim notes where RAM blocks are; newer builds tell that themselves, and start through a script of their own.
    const preload = options.build.binary.includes("/") ? {} : { LD_PRELOAD: SHIM_PATH, TWINRUN_SHIM: "1" };
    const child = { stdio: ["ignore", log, log] as ("ignore" | number)[], env: { ...process.env, ...preload } };
    const qemu = spawn("setpriv", command, child);
    closeSync(log);
    try {
      return new GuestQemu(options, qemu, await connectWithRetry(join(directory, "qmp"), { withinMs: 20_000 }));
    } catch (error) {
      qemu.kill("SIGKILL");
      throw new Error(`QEMU did not start: ${readFileSync(join(directory, "qemu.log"), "utf8")}`, { cause: error });
    }
  }

  /** The same machine, waiting for a state, with memory and disk of its own. */
  startStandby(): Promise<GuestQemu> {
    const extra = [...(this.#options.extra ?? []), "-incoming", "defer", "-S"];
    return GuestQemu.start({ ...this.#options, directory: `${this.directory}-standby`, extra });
  }

  get pid(): number {
    return this.process.pid ?? -1;
  }

  get diskPath(): string {
    return join(this.directory, "disk.raw");
  }

  serialText(): string {
    const path = join(this.directory, "serial.log");
    return existsSync(path) ? readFileSync(path, "utf8") : "";
  }

  logText(): string {
    return readFileSync(join(this.directory, "qemu.log"), "utf8");
  }

  /** The last number the guest counted to. */
  lastTick(): number {
    if (this.#options.load === undefined) {
      const { descriptor } = this.openMemory();
      const count = Buffer.alloc(4);
      readSync(descriptor, count, 0, 4, COUNT_ADDRESS);
      closeSync(descriptor);
      return count.readUInt32LE(0);
    }
    return Number([...this.serialText().matchAll(/tick (\d+)\r?\n/g)].at(-1)?.[1] ?? 0);
  }

  async waitForTick(atLeast: number, withinMs = 60_000): Promise<void> {
    const deadlineMs = performance.now() + withinMs;
    while (this.lastTick() < atLeast) {
      if (performance.now() > deadlineMs || this.process.exitCode !== null || this.process.signalCode !== null) {
        throw new Error(`the guest did not get to tick ${atLeast}: ${this.serialText().slice(-200)}${this.logText()}`);
      }
      await sleep(20);
    }
  }

  /** Where each RAM block is in QEMU's address space. */
  async placeBlocks(): Promise<readonly PlacedBlock[]> {
    const { ramBlocks } = await readMachine(this.qmp);
    const told = ramBlocks.flatMap(({ name, bytes, address }) =>
      address === undefined ? [] : [{ name, bytes, address }],
    );
    if (told.length === ramBlocks.length) {
      return told;
    }
    const shim = openShim(this.pid);
    const placed = planRamBlocks(ramBlocks, shim.mappings);
    shim.close();
    return placed;
  }

  /** The guest's memory, as QEMU shares it. */
  openMemory(): { readonly descriptor: number; readonly bytes: number } {
    const folder = `/proc/${this.pid}/fd`;
    const found = readdirSync(folder).find((name) => readLink(join(folder, name)).includes("memfd:memory-backend"));
    if (found === undefined) {
      throw new Error("QEMU has no memfd");
    }
    const descriptor = openSync(join(folder, found), "r+");
    return { descriptor, bytes: fstatSync(descriptor).size };
  }

  async kill(): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) {
      return;
    }
    const gone = new Promise((resolve) => this.process.once("exit", resolve));
    this.process.kill("SIGKILL");
    await gone;
  }
}

/** Everything of one guest's memory into another's, synchronously: meant for whileStopped. */
export function copyMemory(source: GuestQemu, target: GuestQemu): void {
  const from = source.openMemory();
  const to = target.openMemory();
  const chunk = Buffer.alloc(COPY_BYTES);
  for (let at = 0; at < from.bytes; at += chunk.length) {
    const size = readSync(from.descriptor, chunk, 0, chunk.length, at);
    writeSync(to.descriptor, chunk, 0, size, at);
  }
  closeSync(from.descriptor);
  closeSync(to.descriptor);
}

/** Everything of every RAM block, ROMs too. */
export async function copyBlocks(source: GuestQemu, target: GuestQemu): Promise<void> {
  const places = new Map((await target.placeBlocks()).map(({ name, address }) => [name, Number(address)]));
  const from = openSync(`/proc/${source.pid}/mem`, "r");
  const to = openSync(`/proc/${target.pid}/mem`, "r+");
  for (const { name, address, bytes } of await source.placeBlocks()) {
    const chunk = Buffer.alloc(Math.min(COPY_BYTES, bytes));
    for (let at = 0; at < bytes; at += chunk.length) {
      readSync(from, chunk, 0, chunk.length, Number(address) + at);
      writeSync(to, chunk, 0, chunk.length, (places.get(name) ?? 0) + at);
    }
  }
  closeSync(from);
  closeSync(to);
}

export function readMemory(guest: GuestQemu): Buffer {
  const { descriptor, bytes } = guest.openMemory();
  const memory = Buffer.alloc(bytes);
  for (let at = 0; at < bytes;) {
    at += readSync(descriptor, memory, at, Math.min(COPY_BYTES, bytes - at), at);
  }
  closeSync(descriptor);
  return memory;
}

function readLink(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return ""; // Closed since it was listed.
  }
}

const DISK_DEVICES = {
  virtio: ["-object", "iothread,id=io0", "-device", "virtio-blk-pci,iothread=io0"],
  scsi: ["-device", "virtio-scsi-pci,id=scsi0", "-device", "scsi-hd"],
  sata: ["-device", "ich9-ahci,id=sata0", "-device", "ide-hd,bus=sata0.0"],
} as const;

function listDiskArguments({ directory, disk }: GuestQemuOptions): string[] {
  if (disk === undefined) {
    return [
      ...["-blockdev", `driver=file,node-name=disk0-file,filename=${directory}/disk.raw`],
      ...["-blockdev", "driver=raw,node-name=disk0,file=disk0-file"],
      ...["-device", "virtio-blk-pci,drive=disk0,id=disk0-device,werror=stop,rerror=stop"],
    ];
  }
  const { format, bus } = disk;
  return [
    ...["-blockdev", `driver=file,node-name=disk0-file,filename=${directory}/disk.${format},discard=unmap`],
    ...["-blockdev", `driver=${format},node-name=disk0,file=disk0-file,discard=unmap`],
    ...DISK_DEVICES[bus].slice(0, -1),
    `${DISK_DEVICES[bus].at(-1) ?? ""},drive=disk0,id=disk0-device,bootindex=1,werror=stop,rerror=stop`,
  ];
}

async function listArguments(options: GuestQemuOptions): Promise<string[]> {
  const { directory, load, machine = "pc", extra = [] } = options;
  return [
    ...`-machine ${machine},accel=tcg,memory-backend=ram -cpu qemu64 -m ${MEMORY_MIB} -nodefaults -no-user-config`.split(
      " ",
    ),
    ...["-display", "none", "-object", `memory-backend-memfd,id=ram,size=${MEMORY_MIB}M,share=on`],
    ...(load === undefined ? [] : await listLinuxArguments(directory, load)),
    ...["-serial", `file:${directory}/serial.log`, "-qmp", `unix:${directory}/qmp,server=on,wait=off`],
    ...listDiskArguments(options),
    ...["-global", "migration.send-configuration=off", ...extra],
  ];
}

async function listLinuxArguments(directory: string, load: readonly GuestLoad[]): Promise<string[]> {
  const image = await provideImage("busybox", () => undefined);
  const initrd = join(directory, "initrd.img");
  await writeFile(initrd, Buffer.concat([await readFile(image.initrd), encodeArchive("test-init", INIT)]));
  const commandLine = `console=ttyS0 quiet rdinit=/test-init load=${load.join(",")}`;
  return ["-kernel", image.kernel, "-initrd", initrd, "-append", commandLine];
}

/** A cpio archive (newc) of one executable file, padded so that it may follow another archive. */
function encodeArchive(name: string, content: string): Buffer {
  const entry = (path: string, mode: number, body: Buffer): Buffer => {
    const sizes = [1, mode, 0, 0, 1, 0, body.length, 0, 0, 0, 0, path.length + 1, 0];
    const header = `070701${sizes.map((value) => value.toString(16).padStart(8, "0")).join("")}${path}\0`;
    return Buffer.concat([padTo4(Buffer.from(header)), padTo4(body)]);
  };
  const end = entry("TRAILER!!!", 0, Buffer.alloc(0));
  return Buffer.concat([Buffer.alloc(512), entry(name, 0o100755, Buffer.from(content)), end, Buffer.alloc(512)]);
}

function padTo4(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)]);
}
