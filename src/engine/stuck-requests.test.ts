import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "@jest/globals";
import { isSameFile, listAwaitedFiles } from "./stuck-requests.ts";

test("a process that reads what nobody writes waits for that file, and for none once it has it", async () => {
  const directory = mkdtempSync(join(tmpdir(), "twinrun-stuck-"));
  const path = join(directory, "pipe");
  execFileSync("mkfifo", [path]);
  const child = spawn("sh", ["-c", `exec 3<>${path}; read line <&3; echo "$line"; exec sleep 60`], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  try {
    const pid = child.pid ?? 0;
    while (!listAwaitedFiles(pid).includes(path)) {
      await sleep(5);
    }
    execFileSync("sh", ["-c", `echo done > ${path}`]);
    await once(child.stdout, "data");
    expect(listAwaitedFiles(pid)).toEqual([]);
  } finally {
    child.kill("SIGKILL");
    await once(child, "close");
    rmSync(directory, { recursive: true });
  }
});

test("a process that is gone waits for nothing", () => {
  expect(listAwaitedFiles(2 ** 22 + 1)).toEqual([]);
});

test("a disk's file is the same from within a pod and from outside", () => {
  const outside = "/proc/4711/root/run/kubevirt-private/vmi-disks/system/disk.img";
  expect(isSameFile(outside, "/var/run/kubevirt-private/vmi-disks/system/disk.img")).toBe(true);
  expect(isSameFile(outside, "/var/run/kubevirt-private/vmi-disks/data/disk.img")).toBe(false);
});
