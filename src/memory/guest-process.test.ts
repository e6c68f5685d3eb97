import { afterEach, expect, test } from "@jest/globals";
import { spawn, type ChildProcess } from "node:child_process";
import { readFileSync } from "node:fs";
import { getPriority } from "node:os";
import { FakeGuest } from "./fake-guest.ts";
import { applyNice, applyRealtime, findThread, listThreads, openGuestProcess, readStartTime } from "./guest-process.ts";

const children: ChildProcess[] = [];

function startSleep(): number {
  const child = spawn("sleep", ["60"]);
  children.push(child);
  return child.pid ?? -1;
}

afterEach(() => {
  for (const child of children.splice(0)) {
    child.kill("SIGKILL");
  }
});

test("death is noticed at once, also of a process that is not our child", async () => {
  const shell = spawn("sh", ["-c", "sleep 60 & echo $!; wait"]);
  children.push(shell);
  const pid = await new Promise<number>((resolve) => {
    shell.stdout.once("data", (text: Buffer) => {
      resolve(Number(text.toString()));
    });
  });
  const guest = openGuestProcess(pid);
  expect(guest.dead).toBe(false);
  const died = new Promise<void>((resolve) => {
    guest.onDeath(resolve);
  });
  expect(guest.sendSignal("SIGKILL")).toBe(true);
  await died;
  expect(guest.dead).toBe(true);
  expect(guest.sendSignal("SIGKILL")).toBe(false);
  await new Promise<void>((resolve) => {
    guest.onDeath(resolve); // Too late is not lost.
  });
  guest.close();
});

test("a process is known again by its start time, and another one with its number is not taken for it", () => {
  const pid = startSleep();
  const startTime = readStartTime(pid) ?? "";
  expect(startTime).toMatch(/^\d+$/);
  openGuestProcess(pid, startTime).close();
  expect(() => openGuestProcess(pid, String(Number(startTime) - 1))).toThrow(/gone/);
});

test("a process that does not exist is an error", () => {
  expect(() => openGuestProcess(4_194_303)).toThrow(/process 4194303 is gone: start the guest anew/);
  expect(readStartTime(4_194_303)).toBeUndefined();
});

test("dying is noticed before a large memory is gone", async () => {
  const guest = await FakeGuest.start();
  await guest.ask({ tag: "map", bytes: 256 << 20, shared: true }, "mapped");
  const pages = Array.from({ length: 65_536 }, (_, page) => [0, page, 1] as const);
  await guest.ask({ tag: "write", writes: pages }, "done");
  const watched = openGuestProcess(guest.pid);
  const order: string[] = [];
  watched.onDying(() => order.push("dying"));
  const died = new Promise<void>((resolve) => {
    watched.onDeath(() => {
      order.push("dead");
      resolve();
    });
  });
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(order).toEqual([]);
  watched.sendSignal("SIGKILL");
  await died;
  expect(order).toEqual(["dying", "dead"]);
  await new Promise<void>((resolve) => {
    watched.onDying(resolve); // Also when it is too late.
  });
  watched.close();
  await guest.stop();
});

test("no callback after close", async () => {
  const pid = startSleep();
  const guest = openGuestProcess(pid);
  let called = false;
  guest.onDeath(() => {
    called = true;
  });
  const exited = new Promise((resolve) => children[0]?.once("exit", resolve));
  process.kill(pid, "SIGKILL");
  guest.close();
  await exited;
  await new Promise((resolve) => setTimeout(resolve, 10));
  expect(called).toBe(false);
});

test("threads are listed and scheduled", () => {
  const pid = startSleep();
  expect(listThreads(pid)).toMatchObject([{ tid: pid }]);
  applyNice(pid, 5);
  expect(getPriority(pid)).toBe(5);
  applyRealtime(pid, 3);
  const policy = (): string | undefined => readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]?.split(" ")[38];
  expect(policy()).toBe("2");
  applyRealtime(pid, 0);
  expect(policy()).toBe("0");
  expect(() => {
    applyNice(4_194_303, 1);
  }).toThrow(/setpriority failed with ESRCH/);
});

test("a thread of a process in a PID namespace of its own is found by the number it has in there", async () => {
  const parent = spawn("unshare", ["--pid", "--fork", "--kill-child", "sleep", "60"]);
  children.push(parent);
  const file = `/proc/${parent.pid ?? -1}/task/${parent.pid ?? -1}/children`;
  let pid = 0;
  while (pid === 0) {
    pid = Number(readFileSync(file, "utf8").trim());
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  expect(findThread(pid, 1)).toBe(pid);
  expect(findThread(pid, pid)).toBeUndefined();
});
