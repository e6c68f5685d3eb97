/**
 * What a test run left on the machine: its processes, and labs, namespaces and QEMUs that belong to nobody any more.
 *
 * Processes of the run are known by an environment variable that every descendant inherits. QEMU gets an environment of the
 * agent's making; it names the run directory, and a QEMU whose run directory is gone is nobody's.
 */
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

export const runMarker = "TWINRUN_TEST_RUN";
const runDirectory = "TWINRUN_RUN_DIRECTORY";

const graceMs = 5_000;

/** One line for each thing that is left now. */
export const listLeft = (run: string): string[] => [...listProcesses(run), ...listNamespaces()];

/** The same after a while for what still ends by itself, without what was there `before` the run. */
export async function listLeftovers(run: string, before: readonly string[]): Promise<readonly string[]> {
  const deadlineMs = Date.now() + graceMs;
  for (;;) {
    const left = listLeft(run).filter((line) => !before.includes(line));
    if (left.length === 0 || Date.now() > deadlineMs) {
      return left;
    }
    await sleep(250);
  }
}

function listProcesses(run: string): string[] {
  return readdirSync("/proc")
    .filter((name) => /^[0-9]+$/.test(name) && Number(name) !== process.pid)
    .flatMap((pid) => {
      const environment = readLines(`/proc/${pid}/environ`);
      const directory = environment.find((entry) => entry.startsWith(`${runDirectory}=`))?.split("=")[1];
      const isOurs = environment.includes(`${runMarker}=${run}`);
      const isNobodys = directory !== undefined && !existsSync(directory);
      return isOurs || isNobodys
        ? [`process ${pid}: ${readLines(`/proc/${pid}/cmdline`).join(" ").slice(0, 150)}`]
        : [];
    });
}

/** Namespaces of labs and of control planes are called after the process that made them (test/lab/hosts.ts). */
function listNamespaces(): string[] {
  const names = existsSync("/run/netns") ? readdirSync("/run/netns") : [];
  return names.flatMap((name) => {
    const made = /^tr([0-9a-z]+)-(a|b|q|c|switch|plane|l[0-9]+-.+)$/.exec(name)?.[1];
    const isLeft = made !== undefined && !existsSync(`/proc/${Number.parseInt(made, 36)}`);
    return isLeft ? [`network namespace ${name}`] : [];
  });
}

function readLines(path: string): string[] {
  try {
    return readFileSync(path, "utf8").split("\0").filter(Boolean);
  } catch {
    return []; // It ended while we looked, or is not ours to look into.
  }
}
