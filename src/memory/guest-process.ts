/**
 * A QEMU process as a thing that can be watched and killed without ever hitting another one that got its number.
 *
 * The pidfd is the identity: death is noticed by the event loop the moment the kernel reports it, no matter whose child it is,
 * and signals go through it. The start time is the identity across a restart of the agent, in its state file.
 *
 * Death takes time: the kernel first takes a guest's memory apart (768 MiB: 80 to 190 ms on a busy host) and only then closes
 * sockets and reports the end. {@link GuestProcess.onDying} looks at the flag the kernel sets before that, so a standby can take
 * over 100 ms earlier; {@link GuestProcess.onDeath} is for those who need the disks unlocked and the number free.
 */
import { closeSync, openSync, readdirSync, readFileSync, readSync } from "node:fs";
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
  /**
   * Called once when the process will never run the guest again: it is being taken apart or dead. Looks every `everyMs`, for
   * about 20 µs.
   */
  onDying(callback: () => void, everyMs?: number): void;
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
    const fields = parseStat(readFileSync(`/proc/${pid}/stat`, "latin1"));
    return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

/** The fields of /proc/PID/stat from the state on: the name before may contain anything, so they are counted from its end. */
function parseStat(stat: string): readonly string[] {
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
}

export type Thread = { readonly tid: number; readonly name: string };

/** Threads of a process: QEMU calls its vCPUs "CPU n/TCG" or "CPU n/KVM" when started with -name debug-threads=on. */
export function listThreads(pid: number): readonly Thread[] {
  return readdirSync(`/proc/${pid}/task`).map((tid) => {
    const name = readFileSync(`/proc/${pid}/task/${tid}/comm`, "utf8").trim();
    return { tid: Number(tid), name };
  });
}

/** The thread that the process itself knows as `innerTid`: in a pod it has a PID namespace of its own, and other numbers. */
export function findThread(pid: number, innerTid: number): number | undefined {
  return listThreads(pid).find(({ tid }) => readInnerTid(pid, tid) === innerTid)?.tid;
}

function readInnerTid(pid: number, tid: number): number {
  const status = readFileSync(`/proc/${pid}/task/${tid}/status`, "utf8");
  return Number(/^NSpid:.*?([0-9]+)$/m.exec(status)?.[1] ?? tid);
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

const DYING_LOOK_MS = 10;

class OpenProcess implements GuestProcess {
  readonly pid: number;
  readonly startTime: string;
  readonly #pidfd: number;
  readonly #callbacks: (() => void)[] = [];
  readonly #dyingCallbacks: (() => void)[] = [];
  readonly #statBytes = Buffer.alloc(1024);
  #statFd = -1;
  #dyingTimer: NodeJS.Timeout | undefined;
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

  onDying(callback: () => void, everyMs = DYING_LOOK_MS): void {
    if (this.#dead || this.#closed) {
      this.onDeath(callback);
      return;
    }
    this.#dyingCallbacks.push(callback);
    if (this.#dyingTimer === undefined) {
      // One descriptor stays with this very process; a path could come to name another one.
      this.#statFd = openSync(`/proc/${this.pid}/stat`, "r");
      this.#dyingTimer = setInterval(() => {
        if (this.#isExiting()) {
          this.#noteDying();
        }
      }, everyMs);
      this.#dyingTimer.unref();
    }
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
    this.#dyingCallbacks.length = 0;
    this.#stopLooking();
    this.#watcher?.close();
    this.#watcher = undefined;
    closeSync(this.#pidfd);
  }

  #noteDeath(): void {
    this.#dead = true;
    this.#watcher?.close(); // A pidfd of a dead process stays readable for ever.
    this.#watcher = undefined;
    this.#noteDying();
    for (const callback of this.#callbacks.splice(0)) {
      callback();
    }
  }

  #noteDying(): void {
    this.#stopLooking();
    for (const callback of this.#dyingCallbacks.splice(0)) {
      callback();
    }
  }

  #stopLooking(): void {
    clearInterval(this.#dyingTimer);
    this.#dyingTimer = undefined;
    if (this.#statFd >= 0) {
      closeSync(this.#statFd);
      this.#statFd = -1;
    }
  }

  /** PF_EXITING of the first thread: QEMU's main loop, which never ends before the process does. */
  #isExiting(): boolean {
    const PF_EXITING = 4;
    try {
      const bytes = readSync(this.#statFd, this.#statBytes, 0, this.#statBytes.length, 0);
      return (Number(parseStat(this.#statBytes.toString("latin1", 0, bytes))[6]) & PF_EXITING) !== 0;
    } catch {
      return true; // No such process any more.
    }
  }
}

function guestGone(pid: number, cause?: unknown): GuestProcessFailure {
  return new GuestProcessFailure({ code: "ProcessGone", pid }, `process ${pid} is gone: start the guest anew`, {
    cause,
  });
}
