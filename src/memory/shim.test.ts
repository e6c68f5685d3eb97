import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { closeSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FakeGuest } from "./fake-guest.ts";
import { hasVhostNet, openShim, type Shim } from "./shim.ts";
import { WORD } from "./shim-layout.ts";

let directory: string;
let server: Server;
let monitor: Socket;
let guest: FakeGuest;
let shim: Shim;

async function startGuest(): Promise<void> {
  guest = await FakeGuest.start();
  const connected = new Promise<Socket>((resolve) => server.once("connection", resolve));
  await guest.ask({ tag: "openMonitor", path: join(directory, "monitor") }, "done");
  monitor = await connected;
}

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "twinrun-shim-"));
  server = createServer();
  await new Promise<void>((resolve) => server.listen(join(directory, "monitor"), resolve));
  await startGuest();
});

beforeEach(() => {
  shim = openShim(guest.pid);
});

afterEach(() => {
  shim.close();
});

afterAll(async () => {
  await guest.stop();
  monitor.destroy();
  server.close();
  rmSync(directory, { recursive: true });
});

const event = (name: string, more = ""): string =>
  `{"timestamp": {"seconds": 1795485600, "microseconds": 123456}, "event": "${name}"${more}}\r\n`;

/** What arrives at the monitor of the lines QEMU sends, each by one call. */
async function arriving(lines: readonly string[]): Promise<string> {
  let text = "";
  monitor.on("data", (bytes: Buffer) => (text += bytes.toString()));
  await guest.ask({ tag: "sendEvents", lines: [...lines, "end"] }, "done");
  while (!text.endsWith("end")) {
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  monitor.removeAllListeners("data");
  return text.slice(0, -3);
}

describe("quiet checkpoints", () => {
  const pair = [event("STOP"), event("RESUME")];

  test("a STOP and the RESUME that follows it are swallowed only while quiet", async () => {
    expect(await arriving(pair)).toBe(pair.join(""));
    const before = shim.quietedEvents;
    shim.setQuiet(true);
    expect(await arriving([...pair, ...pair])).toBe("");
    expect(shim.quietedEvents).toBe(before + 4);
    const drained = event("JOB_STATUS_CHANGE", ', "data": {"status": "standby", "id": "mirror"}');
    expect(await arriving([event("STOP"), drained, event("RESUME")])).toBe(drained);
    shim.setQuiet(false);
    expect(await arriving(pair)).toBe(pair.join(""));
  });

  test.each([
    ["a STOP before the checkpoint, which then causes none", [event("STOP"), '{"return": {}}\r\n']],
    ["a STOP after the checkpoint's RESUME", [event("STOP"), event("RESUME"), event("STOP"), '{"return": {}}\r\n']],
    ["a RESUME of a guest that was not stopped by us", [event("RESUME"), '{"return": {}}\r\n']],
  ])("what others caused meanwhile arrives before their answer: %s", async (_, lines) => {
    shim.setQuiet(true);
    expect(await arriving(lines)).toBe(lines.slice(-2).join(""));
  });

  test("a STOP that was held when quiet ended arrives with what is sent next", async () => {
    shim.setQuiet(true);
    expect(await arriving([event("STOP")])).toBe(event("STOP"));
    shim.setQuiet(false);
    expect(await arriving([])).toBe("");
  });

  test("and is nothing to who connects by the same descriptor later", async () => {
    const greeting = '{"QMP": {"version": {}}}\r\n';
    shim.setQuiet(true);
    expect(await arriving([event("STOP"), greeting])).toBe(greeting);
  });

  test.each([
    ["another event", event("SHUTDOWN", ', "data": {"guest": true, "reason": "guest-shutdown"}')],
    ["an event whose name only ends like it", event("NOSTOP")],
    ["an event with data", event("STOP", ', "data": {}')],
    ["two events in one write", event("STOP") + event("RESUME")],
    ["an event behind another", event("RESET") + event("STOP")],
    ["the end of a line", event("STOP").slice(10)],
    ["the start of a line", event("STOP").slice(0, -2)],
    ["an answer that quotes it", `{"return": "\\"event\\": \\"STOP\\"}"}\r\n`],
    ["a long answer that ends like it", `{"timestamp": {"x": "${"y".repeat(200)}"}, "event": "STOP"}\r\n`],
  ])("%s passes while quiet", async (_, line) => {
    const before = shim.quietedEvents;
    shim.setQuiet(true);
    expect(await arriving([line])).toBe(line);
    expect(shim.quietedEvents).toBe(before);
  });

  test("an engine that closes the shim leaves the monitor loud", async () => {
    shim.setQuiet(true);
    shim.close();
    expect(await arriving(pair)).toBe(pair.join(""));
  });

  test("an engine that died while quiet is made up for by the next", async () => {
    shim.close();
    guest.applyWord(WORD.quiet, 1);
    expect(await arriving(pair)).toBe("");
    shim = openShim(guest.pid);
    expect(await arriving(pair)).toBe(pair.join(""));
  });
});

describe("the agent's channel", () => {
  const shutdown = '{"execute":"guest-shutdown","arguments":{"mode":"powerdown"}}\n';
  const libvirts: Socket[] = [];

  async function openChannel(name: string): Promise<Socket> {
    const path = join(mkdtempSync(join(directory, "channel-")), name);
    await guest.ask({ tag: "openChannel", path }, "done");
    const libvirt = connect(path);
    libvirts.push(libvirt);
    await once(libvirt, "connect");
    return libvirt;
  }

  /** What QEMU reads of it, and gives to the guest. */
  async function readAfter(libvirt: Socket, text: string): Promise<string | null> {
    await new Promise((resolve) => libvirt.write(text, resolve));
    return (await guest.ask({ tag: "readChannel" }, "read")).text;
  }

  afterAll(() => {
    libvirts.forEach((libvirt) => libvirt.destroy());
  });

  test("lets a shutdown through as long as nobody minds", async () => {
    expect(await readAfter(await openChannel("org.qemu.guest_agent.0"), shutdown)).toBe(shutdown);
  });

  test("answers a shutdown in the guest's place while only the button is to be pressed", async () => {
    const libvirt = await openChannel("org.qemu.guest_agent.0");
    shim.setButtonOnly(true);
    const answered = once(libvirt, "data") as Promise<[Buffer]>;
    expect(await readAfter(libvirt, shutdown)).toBeNull();
    const [answer] = await answered;
    expect(answer.toString()).toMatch(/^[^\n]*\n$/);
    expect(JSON.parse(answer.toString())).toMatchObject({ error: { class: "GenericError" } });
    // What comes next is the guest's again.
    expect(await readAfter(libvirt, '{"execute":"guest-sync","arguments":{"id":1}}\n')).toContain("guest-sync");
  });

  test.each([
    ["a reboot", '{"execute":"guest-shutdown","arguments":{"mode":"reboot"}}\n'],
    ["another command", '{"execute":"guest-fsfreeze-freeze"}\n'],
    ["a command that quotes it", `{"execute":"guest-exec","arguments":{"arg":${JSON.stringify(shutdown)}}}\n`],
    ["the start of the line", shutdown.slice(0, -2)],
  ])("%s passes all the same", async (_, line) => {
    const libvirt = await openChannel("org.qemu.guest_agent.0");
    shim.setButtonOnly(true);
    expect(await readAfter(libvirt, line)).toBe(line);
  });

  test("what comes on another channel is not the agent's", async () => {
    const console = await openChannel("virt-serial0");
    shim.setButtonOnly(true);
    expect(await readAfter(console, shutdown)).toBe(shutdown);
  });

  test("an engine that is gone leaves the agent to libvirt", async () => {
    const libvirt = await openChannel("org.qemu.guest_agent.0");
    shim.setButtonOnly(true);
    shim.close();
    expect(await readAfter(libvirt, shutdown)).toBe(shutdown);
  });
});

describe("mappings", () => {
  beforeEach(async () => {
    shim.close();
    await guest.stop();
    await startGuest();
    shim = openShim(guest.pid);
  });

  test("blocks are listed in their order, and no longer when they were unmapped", async () => {
    for (const [bytes, shared] of [
      [65536, true],
      [4096, false],
      [131072, true],
    ] as const) {
      await guest.ask({ tag: "map", bytes, shared }, "mapped");
    }
    const list = (): unknown => {
      shim.close();
      shim = openShim(guest.pid);
      return shim.mappings.map(({ bytes, shared }) => [bytes, shared]);
    };
    expect(list()).toEqual([
      [65536, true],
      [4096, false],
      [131072, true],
    ]);
    await guest.ask({ tag: "unmap", block: 0 }, "done");
    await guest.ask({ tag: "map", bytes: 8192, shared: false }, "mapped");
    expect(list()).toEqual([
      [4096, false],
      [131072, true],
      [8192, false],
    ]);
  });

  test("the userfaultfd is there as soon as there is a block", async () => {
    expect(shim.userfaultfd).toBe(-1);
    await guest.ask({ tag: "map", bytes: 65536, shared: true }, "mapped");
    shim.close();
    shim = openShim(guest.pid);
    expect(shim.userfaultError).toBe(0);
    expect(shim.userfaultfd).toBeGreaterThan(2);
  });
});

test("helper programs of QEMU are left alone: the shim does not act in them", async () => {
  const child = await guest.ask({ tag: "startHelper" }, "helper");
  expect(child.hasShim).toBe(false);
});

test("vhost-net is recognised: its packets pass no gate", () => {
  expect(hasVhostNet(guest.pid)).toBe(false);
  const device = join(directory, "vhost-net");
  const fd = openSync(device, "w");
  expect(hasVhostNet(process.pid, device)).toBe(true);
  closeSync(fd);
  expect(hasVhostNet(process.pid, device)).toBe(false);
});
