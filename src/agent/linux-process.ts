/**
 * Processes of this host, told apart for sure.
 *
 * A process id alone is not an identity: it is given out again. Together with the start time (field 22 of /proc/PID/stat,
 * in clock ticks since boot) and the boot's id it is one. Nothing here signals a process whose identity was not read
 * again immediately before.
 *
 * Strays (processes whose record was never written because the agent died in between) are found by an entry of their
 * environment, which the kernel keeps readable in /proc/PID/environ from exec on.
 */
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { type Log } from "../telemetry/log.ts";
import { monotonicMs } from "../telemetry/clock.ts";

export type ProcessIdentity = {
  readonly pid: number;
  /** Decimal text, for it may pass 2^53. */
  readonly startTime: string;
};

/** This boot of this host. */
export function readBootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}

/** Undefined when there is no such process, or only its remains (a zombie runs nothing and holds nothing). */
export function readIdentity(pid: number): ProcessIdentity | undefined {
  const fields = readStat(pid);
  const [state, startTime] = [fields?.[0], fields?.[19]];
  if (state === undefined || startTime === undefined || state === "X" || (state === "Z" && !hasMoreThreads(pid))) {
    return undefined;
  }
  return { pid, startTime };
}

/** The state is that of the first thread. While another one is left, and be it on its way out, files and taps stay open. */
function hasMoreThreads(pid: number): boolean {
  try {
    return readdirSync(`/proc/${pid}/task`).length > 1;
  } catch {
    return false;
  }
}

/** The session a process belongs to: the id of the process that began it. */
export function readSession(pid: number): number | undefined {
  const session = readStat(pid)?.[3];
  return session === undefined ? undefined : Number(session);
}

export type ProcessUsage = { readonly residentBytes: number; readonly cpuSeconds: number };

const PAGE_BYTES = 4096;
/** What the kernel counts CPU time in towards user space, on every architecture we run on. */
const TICKS_PER_SECOND = 100;

export function readUsage(pid: number): ProcessUsage | undefined {
  const fields = readStat(pid);
  if (fields === undefined) {
    return undefined;
  }
  const ticks = Number(fields[11]) + Number(fields[12]);
  return { residentBytes: Number(fields[21]) * PAGE_BYTES, cpuSeconds: ticks / TICKS_PER_SECOND };
}

/** The fields of /proc/PID/stat from the third one on: the state is number 0 here. */
function readStat(pid: number): readonly string[] | undefined {
  const stat = readText(`/proc/${pid}/stat`);
  // The second field is the command in brackets and may itself hold brackets and spaces; the rest starts after the last.
  return stat?.slice(stat.lastIndexOf(")") + 2).split(" ");
}

export function isAlive({ pid, startTime }: ProcessIdentity): boolean {
  return readIdentity(pid)?.startTime === startTime;
}

export type MarkedProcess = { readonly identity: ProcessIdentity; readonly environment: readonly string[] };

/** Every process id there is. */
export function listProcesses(): readonly number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** Entries of the form NAME=value, as they were at exec; undefined when they cannot be read. */
export function readEnvironment(pid: number): readonly string[] | undefined {
  return readText(`/proc/${pid}/environ`)?.split("\0");
}

/** Every living process whose environment (entries of the form NAME=value) matches. */
export function listEnvironments(matches: (environment: readonly string[]) => boolean): readonly MarkedProcess[] {
  return listProcesses().flatMap((pid) => {
    const environment = readEnvironment(pid);
    if (environment === undefined || !matches(environment)) {
      return [];
    }
    const identity = readIdentity(pid);
    return identity === undefined ? [] : [{ identity, environment }];
  });
}

/** The user and group that count when it opens files. */
export function readUser(pid: number): { readonly uid: number; readonly gid: number } | undefined {
  const status = readText(`/proc/${pid}/status`) ?? "";
  const [uid, gid] = ["Uid", "Gid"].map(
    (name) => new RegExp(`^${name}:(?:\\s+\\d+){3}\\s+(\\d+)$`, "m").exec(status)?.[1],
  );
  return uid === undefined || gid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) };
}

const FIRST_LOOK_MS = 1;
const LOOK_MS_MAX = 50;
const COMPLAIN_AFTER_MS = 3_000;

/**
 * Kills with SIGKILL and returns when the process is gone. It waits for as long as it takes: a process stuck in the kernel
 * may still write to a disk, so nobody may be told that it is gone.
 */
export async function killProcess(identity: ProcessIdentity, log: Log): Promise<void> {
  const since = monotonicMs();
  let complainAtMs = since + COMPLAIN_AFTER_MS;
  for (let lookMs = FIRST_LOOK_MS; isAlive(identity); lookMs = Math.min(LOOK_MS_MAX, lookMs * 2)) {
    sendKill(identity);
    await sleep(lookMs);
    if (monotonicMs() >= complainAtMs) {
      complainAtMs = Infinity;
      log.error({ pid: identity.pid }, "process does not die of SIGKILL; it hangs in the kernel, look at its storage");
    }
  }
}

function sendKill({ pid }: ProcessIdentity): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") {
      throw error;
    }
  }
}

/** Undefined when the process went away, or does not let itself be read. */
function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
