/**
 * A QEMU process as a thing that can be watched and killed without ever hitting another one that got its number.
 *
 * The pidfd is the identity: death is noticed by the event loop the moment the kernel reports it, no matter whose child it is,
 * and signals go through it. The start time is the identity across a restart of the agent, in its state file.
 */
import { closeSync, readdirSync, readFileSync } from "node:fs";
import { constants } from "node:os";
import { Failure } from "../lib/failure.ts";
import { check, openPidfd, schedSetscheduler, sendSignal, setpriority, watchReadable } from "./libc.ts";

export class GuestProcessFailure extends Failure<{ readonly code: "ProcessGone"; readonly pid: number }> {}

export interface GuestProcess {
  readonly pid: number;
  /** Ticks since boot, as text: (pid, startTime) names a process for good. */
  readonly startTime: string;
  readonly dead: boolean;
  /** Called once from the event loop after the death; also when that was before this call. */
  onDeath(callback: () => void): void;
  /** Returns false when it is dead already. */
  sendSignal(signal: "SIGKILL" | "SIGTERM" | "SIGSTOP" | "SIGCONT"): boolean;
  /** Ends the watching, not the process. */
  close(): void;
}

/** Opens process `pid`; with `startTime` only the one that was started then. Throws ProcessGone. */
export function openGuestProcess(pid: number, startTime?: string): GuestProcess {
  let pidfd: number;
  try {
    pidfd = openPidfd(pid);
  } catch (error) {
    throw guestGone(pid, error);
  }
  const found = readStartTime(pid);
  // Read after the pidfd was opened and checked to be alive: so the time is that of the process the pidfd names.
  if (found === undefined || (startTime !== undefined && startTime !== found) || sendSignal(pidfd, 0) !== 0) {
    closeSync(pidfd);
    throw guestGone(pid);
  }
  return new OpenProcess(pid, pidfd, found);
}

/** When process `pid` was started, in ticks since boot; undefined when there is none or it is a zombie. */
export function readStartTime(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    // The name in parentheses may contain anything, so fields are counted from its end.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

export type Thread = { readonly tid: number; readonly name: string };

/** Threads of a process: QEMU calls its vCPUs "CPU n/TCG" or "CPU n/KVM" when started with -name debug-threads=on. */
export function listThreads(pid: number): readonly Thread[] {
  return readdirSync(`/proc/${pid}/task`).map((tid) => {
    const name = readFileSync(`/proc/${pid}/task/${tid}/comm`, "utf8").trim();
    return { tid: Number(tid), name };
  });
}

/** Sets how a thread shares the processor: -20 (much) to 19 (little). */
export function applyNice(tid: number, nice: number): void {
  const PRIO_PROCESS = 0;
  // SAFETY: integers only.
  check(setpriority(PRIO_PROCESS, tid, nice), "setpriority", "a raised priority needs root or CAP_SYS_NICE");
}

/** Puts a thread before all ordinary ones (SCHED_RR at `priority` 1 to 99), or back among them (0). */
export function applyRealtime(tid: number, priority: number): void {
  const SCHED_OTHER = 0;
  const SCHED_RR = 2;
  const policy = priority === 0 ? SCHED_OTHER : SCHED_RR;
  // SAFETY: a struct sched_param is one int; the array lives until the call returns.
  const parameter = new Int32Array(new ArrayBuffer(4)).fill(priority);
  check(
    schedSetscheduler(tid, policy, parameter),
    "sched_setscheduler",
    "real-time priority needs root or CAP_SYS_NICE, and a cgroup with a real-time budget where the kernel groups by it",
  );
}

class OpenProcess implements GuestProcess {
  readonly pid: number;
  readonly startTime: string;
  readonly #pidfd: number;
  readonly #callbacks: (() => void)[] = [];
  #watcher: { close(): void; unref(): void } | undefined;
  #dead = false;
  #closed = false;

  constructor(pid: number, pidfd: number, startTime: string) {
    this.pid = pid;
    this.#pidfd = pidfd;
    this.startTime = startTime;
    this.#watcher = watchReadable(pidfd, () => {
      this.#noteDeath();
    });
    this.#watcher.unref();
  }

  get dead(): boolean {
    return this.#dead;
  }

  onDeath(callback: () => void): void {
    if (this.#dead) {
      setImmediate(callback);
      return;
    }
    this.#callbacks.push(callback);
  }

  sendSignal(signal: "SIGKILL" | "SIGTERM" | "SIGSTOP" | "SIGCONT"): boolean {
    return !this.#closed && !this.#dead && sendSignal(this.#pidfd, constants.signals[signal]) === 0;
  }

  close(): void {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    this.#callbacks.length = 0;
    this.#watcher?.close();
    this.#watcher = undefined;
    closeSync(this.#pidfd);
  }

  #noteDeath(): void {
    this.#dead = true;
    this.#watcher?.close(); // A pidfd of a dead process stays readable for ever.
    this.#watcher = undefined;
    for (const callback of this.#callbacks.splice(0)) {
      callback();
    }
  }
}

function guestGone(pid: number, cause?: unknown): GuestProcessFailure {
  return new GuestProcessFailure({ code: "ProcessGone", pid }, `process ${pid} is gone: start the guest anew`, {
    cause,
  });
}
