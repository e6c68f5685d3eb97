import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { HealthFiles } from "./health-files.ts";

let directory = "";
let files: HealthFiles | undefined;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "health-files-"));
});

afterEach(() => {
  files?.close();
  rmSync(directory, { recursive: true });
});

/** The probe as a kubelet runs it. */
const isGood = (name: "alive" | "ready"): boolean =>
  spawnSync("sh", ["-c", `test -n "$(find ${join(directory, name)} -mmin -1)"`]).status === 0;

async function waitUntil(holds: () => boolean): Promise<void> {
  for (let tries = 0; !holds(); tries += 1) {
    expect(tries).toBeLessThan(500);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

test("alive while the process turns, ready while its store answers", async () => {
  let storeAnswers = false;
  writeFileSync(join(directory, "ready"), "");
  files = HealthFiles.open(directory, () => Promise.resolve(storeAnswers), 10);
  expect([isGood("alive"), isGood("ready")]).toEqual([true, false]);
  storeAnswers = true;
  await waitUntil(() => isGood("ready"));
  storeAnswers = false;
  await waitUntil(() => !isGood("ready"));
  expect(isGood("alive")).toBe(true);
});

test("whoever stops is not ready any more, and stays so", async () => {
  files = HealthFiles.open(directory, () => Promise.resolve(true), 10);
  await waitUntil(() => isGood("ready"));
  files.close();
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect([isGood("alive"), isGood("ready")]).toEqual([true, false]);
});

test("a process that is stuck gets too old", () => {
  files = HealthFiles.open(directory, () => new Promise(() => undefined), 60_000);
  const longAgo = new Date(Date.now() - 90_000);
  utimesSync(join(directory, "alive"), longAgo, longAgo);
  expect(isGood("alive")).toBe(false);
});
