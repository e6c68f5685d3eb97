/**
 * The same against a real QEMU under TCG: its RAM blocks, its monitor, its taps. The guest is a boot sector that writes to 112
 * pages for ever; packets are the ones QEMU itself sends to announce a guest. Tap and QEMU live in a network namespace without
 * a name, which ends with them.
 */
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SHIM_PATH } from "./fake-guest.ts";
import { GuestMemory } from "./guest-memory.ts";
import { openGuestProcess } from "./guest-process.ts";
import { PageRuns } from "./page-runs.ts";
import { type ListedBlock, PAGE_BYTES, planRamBlocks } from "./ram-blocks.ts";
import { openShim, type Shim } from "./shim.ts";

/**
 *   outer: mov ax,1000h / inner: mov ds,ax; mov [0],cx; add ax,100h; cmp ax,8000h; jb inner / inc cx; jmp outer
 */
const BOOT_SECTOR = Buffer.alloc(512);
BOOT_SECTOR.set([0x31, 0xc9, 0xb8, 0x00, 0x10, 0x8e, 0xd8, 0x89, 0x0e, 0x00, 0x00, 0x05, 0x00, 0x01, 0x3d, 0x00, 0x80]);
BOOT_SECTOR.set([0x72, 0xf2, 0x41, 0xeb, 0xec], 17);
BOOT_SECTOR.set([0x55, 0xaa], 510);
const BUSY_PAGES = 112;

let directory: string;
let qemu: ChildProcess;
let qmp: Qmp;
let shim: Shim;

/** Just enough of QMP for this test, without src/qemu, which this folder may not use. */
class Qmp {
  readonly events: string[] = [];
  readonly #socket: Socket;
  #text = "";
  #answer: ((value: unknown) => void) | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (bytes: Buffer) => {
      this.#text += bytes.toString();
      for (let end = this.#text.indexOf("\n"); end >= 0; end = this.#text.indexOf("\n")) {
        const line = JSON.parse(this.#text.slice(0, end)) as { event?: string; return?: unknown; QMP?: unknown };
        this.#text = this.#text.slice(end + 1);
        if (line.event !== undefined) {
          this.events.push(line.event);
        } else if (line.QMP === undefined) {
          this.#answer?.(line.return);
        }
      }
    });
  }

  static async open(path: string): Promise<Qmp> {
    for (;;) {
      const socket = connect(path);
      const ok = await new Promise((resolve) => {
        socket.once("connect", () => {
          resolve(true);
        });
        socket.once("error", () => {
          resolve(false);
        });
      });
      if (ok === true) {
        const opened = new Qmp(socket);
        await opened.execute("qmp_capabilities");
        return opened;
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  execute(command: string, argumentsOf: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    return new Promise((resolve) => {
      this.#answer = resolve;
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: argumentsOf })}\n`);
    });
  }

  close(): void {
    this.#socket.destroy();
  }
}

async function listBlocks(): Promise<readonly ListedBlock[]> {
  const text = String(await qmp.execute("human-monitor-command", { "command-line": "info ramblock" }));
  return [...text.matchAll(/^\s*(\S+)\s+\d+ \w+\s+(0x\w+) 0x\w+ (0x\w+)/gm)].map(([, name = "", offset, bytes]) => ({
    name,
    offset: Number(offset),
    bytes: Number(bytes),
  }));
}

/** Packets QEMU or the engine put into the tap, as the kernel counts them. */
function readTapPackets(): number {
  const text = execFileSync("nsenter", [
    "-t",
    String(qemu.pid),
    "-n",
    "ip",
    "-s",
    "-j",
    "link",
    "show",
    "tap0",
  ]).toString();
  const [link] = JSON.parse(text) as { stats64: { rx: { packets: number } } }[];
  return link?.stats64.rx.packets ?? -1;
}

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "twinrun-memory-"));
  writeFileSync(join(directory, "boot"), Buffer.concat([BOOT_SECTOR, Buffer.alloc(1 << 20)]));
  const args = [
    ..."-machine q35,accel=tcg,memory-backend=ram -object memory-backend-memfd,id=ram,size=64M,share=on".split(" "),
    ..."-nodefaults -display none -device VGA -netdev tap,id=n0,ifname=tap0,script=no,downscript=no".split(" "),
    ..."-device virtio-net-pci,netdev=n0 -name t,debug-threads=on".split(" "),
    ..."-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".split(" "),
    ...["-drive", `file=${directory}/boot,format=raw,if=ide`],
    ...["qmp", "other-qmp"].flatMap((name) => ["-qmp", `unix:${directory}/${name},server=on,wait=off`]),
  ];
  const start = 'ip tuntap add dev tap0 mode tap && ip link set tap0 up && exec "$@"';
  const command = ["-n", "sh", "-c", start, "sh", "env", `LD_PRELOAD=${SHIM_PATH}`, "qemu-system-x86_64", ...args];
  qemu = spawn("setpriv", ["--pdeathsig", "KILL", "unshare", ...command], { stdio: ["ignore", "inherit", "inherit"] });
  qmp = await Qmp.open(join(directory, "qmp"));
  shim = openShim(qemu.pid ?? -1);
});

afterAll(() => {
  shim.close();
  qemu.kill("SIGKILL");
  rmSync(directory, { recursive: true });
});

test("every RAM block of QEMU is found", async () => {
  const listed = await listBlocks();
  const placed = planRamBlocks(listed, shim.mappings);
  expect(placed).toHaveLength(listed.length);
  expect(shim.mappings).toHaveLength(listed.length); // Nothing else was taken for a block.
  expect(placed.find(({ name }) => name === "ram")?.bytes).toBe(64 << 20);
  expect(listed.some(({ name }) => name.endsWith("vga.vram"))).toBe(true);
});

test("a copy kept by scans equals the guest's memory, also as QEMU itself writes it out", async () => {
  const memory = GuestMemory.open({
    pid: qemu.pid ?? -1,
    blocks: planRamBlocks(await listBlocks(), shim.mappings),
    shim,
    method: "auto",
  });
  const everything = new PageRuns();
  const runs = new PageRuns();
  everything.add(0, memory.pageCount);
  const copy = Buffer.alloc(memory.pageCount * PAGE_BYTES);
  const full = Buffer.alloc(copy.length);
  const pages = Buffer.alloc(copy.length);
  memory.startTracking(); // While it runs: what is written from here on has to show.
  expect(memory.method).toBe("userfaultfd");
  memory.read(everything, copy);
  let busy = 0;
  for (let round = 0; round < 30 && busy < 5; round++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    await qmp.execute("stop");
    memory.scan(runs);
    memory.read(runs, pages);
    for (let run = 0, from = 0; run < runs.length; from += runs.count(run) * PAGE_BYTES, run++) {
      pages.copy(copy, runs.start(run) * PAGE_BYTES, from, from + runs.count(run) * PAGE_BYTES);
    }
    memory.read(everything, full);
    expect(copy.equals(full)).toBe(true);
    busy += runs.pageCount >= BUSY_PAGES ? 1 : 0;
    await qmp.execute("cont");
  }
  expect(busy).toBe(5);
  await qmp.execute("stop");
  memory.scan(runs);
  memory.read(everything, full);
  await qmp.execute("pmemsave", { val: 0x10000, size: 0x70000, filename: join(directory, "dump") });
  const ram = memory.blocks.find(({ name }) => name === "ram");
  const from = (ram?.firstPage ?? 0) * PAGE_BYTES + 0x10000;
  expect(full.subarray(from, from + 0x70000).equals(readFileSync(join(directory, "dump")))).toBe(true);
  await qmp.execute("cont");
  memory.close();
}, 20_000);

test("packets of QEMU are held and released through its tap", async () => {
  shim.gate.setMode("held");
  const before = readTapPackets();
  const asked = new Promise<void>((resolve) => {
    shim.gate.onOutput(resolve);
  });
  await qmp.execute("announce-self", { initial: 50, max: 50, rounds: 3, step: 10 });
  await asked;
  for (let waited = 0; shim.gate.heldPackets < 3 && waited < 100; waited++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  expect(shim.gate.heldPackets).toBe(3);
  expect(readTapPackets()).toBe(before);
  expect(shim.gate.openAndRelease()).toMatchObject({ packets: 3, dropped: 0 });
  expect(readTapPackets()).toBe(before + 3);
  await qmp.execute("announce-self", { initial: 50, max: 50, rounds: 1, step: 10 });
  for (let waited = 0; readTapPackets() === before + 3 && waited < 50; waited++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  expect(readTapPackets()).toBe(before + 4);
});

describe("quiet checkpoints", () => {
  test("STOP and RESUME of one are kept from another monitor, as libvirt's is, and only they", async () => {
    const other = await Qmp.open(join(directory, "other-qmp"));
    try {
      shim.setQuiet(true);
      await qmp.execute("stop");
      await qmp.execute("cont");
      await qmp.execute("system_reset");
      shim.setQuiet(false);
      await other.execute("query-status");
      expect(other.events).toEqual(["RESET"]);
      expect(shim.quietedEvents).toBe(2);
      await qmp.execute("stop");
      await qmp.execute("cont");
      await other.execute("query-status");
      expect(other.events).toEqual(["RESET", "STOP", "RESUME"]);
    } finally {
      other.close();
    }
  });

  test("a stop that whoever asked for it gets an answer to is not kept from him", async () => {
    const other = await Qmp.open(join(directory, "other-qmp"));
    try {
      shim.setQuiet(true);
      await other.execute("stop");
      expect(other.events).toEqual(["STOP"]);
      shim.setQuiet(false);
      await other.execute("cont");
    } finally {
      other.close();
    }
  });
});

test("its death is noticed", async () => {
  expect(existsSync(`/proc/${qemu.pid ?? -1}`)).toBe(true);
  const guest = openGuestProcess(qemu.pid ?? -1);
  const died = new Promise<void>((resolve) => {
    guest.onDeath(resolve);
  });
  guest.sendSignal("SIGKILL");
  await died;
  guest.close();
});
