import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { existsSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { addressOf, createLab, removeDeadLabs, withLab, type HostName, type Lab } from "./hosts.ts";

/** Prints every line it gets, and "end" or the error's code when the connection does not live any more. */
const listener = (host: string): string => `
  require("net").createServer((socket) => {
    console.log("connected");
    socket.on("data", (data) => console.log(String(data).trim()));
    socket.on("end", () => console.log("end"));
    socket.on("error", (error) => console.log(error.code));
  }).listen(4000, "${host}", () => console.log("listening"));`;

/** Sends a number every 20 ms. */
const sender = (host: string): string => `
  const socket = require("net").connect(4000, "${host}", () => setInterval(() => socket.write(n++ + "\\n"), 20));
  let n = 0; socket.setNoDelay(true);
  socket.on("error", (error) => console.log(error.code));
  socket.on("end", () => console.log("end"));`;

class Transcript {
  readonly process: ChildProcess;
  text = "";

  constructor(lab: Lab, host: HostName, script: string) {
    this.process = lab.spawn(host, [process.execPath, "-e", script]);
    this.process.stdout?.setEncoding("utf8").on("data", (text: string) => (this.text += text));
    this.process.stderr?.setEncoding("utf8").on("data", (text: string) => (this.text += text));
  }

  async waitFor(pattern: RegExp, afterCharacters = 0): Promise<void> {
    for (let waitedMs = 0; !pattern.test(this.text.slice(afterCharacters)); waitedMs += 20) {
      if (waitedMs > 10_000) {
        throw new Error(`no ${String(pattern)} in:\n${this.text}`);
      }
      await sleep(20);
    }
  }
}

/** Whether a host answers: nobody listens on port 9, so a host that is there refuses at once. */
const reaches = (lab: Lab, from: HostName, address: string): boolean =>
  lab.run(from, ["bash", "-c", `timeout 1 bash -c 'exec 3<>/dev/tcp/${address}/9' 2>&1; true`]).includes("refused");

const namespaces = (): string[] => (existsSync("/run/netns") ? readdirSync("/run/netns") : []);

describe("a lab", () => {
  let lab: Lab;
  beforeAll(async () => {
    lab = await createLab();
  });
  afterAll(async () => {
    await lab.destroy();
  });

  test("a cut network is silent: no error, no end, and what was sent arrives when it is whole again", async () => {
    const at = addressOf("b", "replication1");
    const receiving = new Transcript(lab, "b", listener(at));
    await receiving.waitFor(/listening/);
    const sending = new Transcript(lab, "a", sender(at));
    await receiving.waitFor(/\n5\n/);

    lab.cutLink("replication1");
    await sleep(100);
    const before = receiving.text.length;
    await sleep(400);
    expect(receiving.text.slice(before)).toBe("");
    expect(sending.text).toBe("");

    lab.restoreLink("replication1");
    await receiving.waitFor(/\n10\n/, before);
    sending.process.kill("SIGKILL");
    await receiving.waitFor(/end/);
    receiving.process.kill("SIGKILL");
    const numbers = receiving.text.split("\n").filter((line) => /^[0-9]+$/.test(line));
    expect(numbers).toEqual(numbers.map((_, index) => String(index)));
  });

  test("cutting one network leaves the other and can be for one host only", () => {
    lab.cutLink("management", "a");
    expect(reaches(lab, "q", addressOf("a", "management"))).toBe(false);
    expect(reaches(lab, "q", addressOf("b", "management"))).toBe(true);
    expect(reaches(lab, "a", addressOf("b", "replication2"))).toBe(true);
    lab.restoreLink("management", "a");
    // The kernel asks for a neighbour once a second, and one try here takes as long.
    expect([1, 2, 3].some(() => reaches(lab, "q", addressOf("a", "management")))).toBe(true);
  });

  test("a host without power says nothing, its processes are gone, its disk stays and its run directory does not", async () => {
    const at = addressOf("b", "replication2");
    const receiving = new Transcript(lab, "b", listener(at));
    await receiving.waitFor(/listening/);
    const sending = new Transcript(lab, "a", sender(at));
    await receiving.waitFor(/\n3\n/);
    const disk = join(lab.diskDirectory("a"), "kept");
    const run = join(lab.runDirectory("a"), "lost");
    spawnSync("touch", [disk, run]);

    await lab.powerOff("a");
    const before = receiving.text.length;
    expect(sending.process.pid !== undefined && existsSync(`/proc/${sending.process.pid}/ns/net`)).toBe(false);
    expect(lab.listProcesses("a")).toEqual([]);
    await sleep(500);
    expect(receiving.text.slice(before)).not.toMatch(/end|E[A-Z]+/);

    lab.powerOn("a");
    expect(existsSync(disk)).toBe(true);
    expect(existsSync(run)).toBe(false);
    expect(reaches(lab, "a", at)).toBe(true);
    receiving.process.kill("SIGKILL");
  });
});

test("a destroyed lab leaves no namespace, no process and no file", async () => {
  let pid = 0;
  let paths: string[] = [];
  const id = await withLab({}, async (lab) => {
    const child = lab.spawn("a", ["sleep", "1000"]);
    pid = child.pid ?? 0;
    paths = [lab.diskDirectory("a"), lab.runDirectory("a"), `/tmp/twinrun-lab-${lab.id}.json`];
    await sleep(50);
    expect(existsSync(`/proc/${pid}`)).toBe(true);
    expect(paths.every((path) => existsSync(path))).toBe(true);
    return lab.id;
  });
  await sleep(50);
  expect(existsSync(`/proc/${pid}`)).toBe(false);
  expect(paths.filter((path) => existsSync(path))).toEqual([]);
  expect(namespaces().filter((name) => name.startsWith(`${id}-`))).toEqual([]);
});

describe("another process's lab", () => {
  const script = `
    import { withLab } from ${JSON.stringify(new URL("hosts.ts", import.meta.url).href)};
    await withLab({}, async (lab) => {
      lab.spawn("b", ["sleep", "1000"], { stdio: "ignore" });
      console.log(lab.id);
      await new Promise((resolve) => setTimeout(resolve, 100000));
    });`;

  async function startOther(): Promise<{ id: string; child: ChildProcess; ended: Promise<number | null> }> {
    const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const ended = new Promise<number | null>((resolve) => child.on("exit", resolve));
    const id = await new Promise<string>((resolve, reject) => {
      child.stdout.setEncoding("utf8").once("data", (text: string) => {
        resolve(text.trim());
      });
      child.once("exit", () => {
        reject(new Error("ended before its lab was there"));
      });
    });
    return { id, child, ended };
  }

  test("is taken down by SIGTERM", async () => {
    const { id, child, ended } = await startOther();
    child.kill("SIGTERM");
    expect(await ended).toBe(143);
    expect(namespaces().filter((name) => name.startsWith(`${id}-`))).toEqual([]);
    expect(existsSync(`/tmp/twinrun-lab-${id}.json`)).toBe(false);
  });

  test("is removed by the next start when it was killed with -9, and left alone while it lives", async () => {
    const { id, child, ended } = await startOther();
    await removeDeadLabs();
    expect(namespaces()).toContain(`${id}-b`);

    child.kill("SIGKILL");
    await ended;
    expect(namespaces()).toContain(`${id}-b`);
    const { directories } = JSON.parse(readFileSync(`/tmp/twinrun-lab-${id}.json`, "utf8")) as {
      directories: string[];
    };
    await removeDeadLabs();
    expect(namespaces().filter((name) => name.startsWith(`${id}-`))).toEqual([]);
    expect(directories.filter((path) => existsSync(path))).toEqual([]);
    rmSync(`/tmp/twinrun-lab-${id}.json`, { force: true });
  });
});
