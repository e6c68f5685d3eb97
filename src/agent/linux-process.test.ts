/** What of a process is left, and who holds something still. */
import { expect, test } from "@jest/globals";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../lib/assert.ts";
import { isAlive, readIdentity } from "./linux-process.ts";

/** Ends the calling thread alone: the system call exit, not exit_group that the C library makes of it. */
const endFirstThread = `import koffi from "koffi"; koffi.load(null).func("long syscall(long, long)")(60, 0);`;

test("a process whose first thread has ended lives as long as another thread does", async () => {
  const child = spawn(process.execPath, ["--input-type=module", "-e", endFirstThread], { stdio: "ignore" });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const pid = present(child.pid, "pid");
  const identity = present(readIdentity(pid), "a process that was just started");
  try {
    while (!/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "latin1"))) {
      await sleep(5);
    }
    expect(isAlive(identity)).toBe(true);
  } finally {
    child.kill("SIGKILL");
  }
  await ended;
  expect(isAlive(identity)).toBe(false);
});
