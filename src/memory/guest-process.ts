/**
 * A QEMU process as a thing that can be watched and killed without ever hitting another one that got its number.
 *
 * The pidfd is the identity: death is noticed by the event loop the moment the kernel reports it, no matter whose child it is,
 * and signals go through it. The start time is the identity across a restart of the agent, in its state file.
 *
 * Death takes time: the kernel first takes a guest's memory apart (768 MiB: 80 to 190 ms on a busy host) and only then closes
 * sockets and reports the end. The memory is taken apart by the last of the threads, so all others end before it, within two
 * milliseconds: {@link GuestProcess.onDying} waits for the end of two threads and then looks at the flag that the kernel gives
 * to a process that ends. A standby can take over 100 ms earlier, and nobody looks while nothing happens.
 * {@link GuestProcess.onDeath} is for those who need the disks unlocked and the number free.
 */
import { closeSync, openSync, readdirSync, readFileSync, readSync } from "node:fs";
import { constants } from "node:os";
import { Failure } from "../lib/failure.ts";
import {
  check,
  openPidfd,
  openThreadPidfd,
  schedSetscheduler,
  sendSignal,
  setpriority,
  watchReadable,
} from "./libc.ts";

export class GuestProcessFailure extends Failure<{ readonly code: "ProcessGone"; readonly pid: number }> {}

export interface GuestProcess {
  readonly pid: number;
  /** Ticks since boot, as text: (pid, startTime) names a process for good. */
  readonly startTime: string;
  readonly dead: boolean;
  /** Called once from the event loop after the death; also when that was before this call. */
  onDeath(callback: () => void): void;
  /** Called once when the process will never run the guest again: it is being taken apart or dead. */
  onDying(callback: () => void): void;
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

/** Where the kernel tells nothing of threads (before 6.9). */
const DYING_LOOK_MS = 25;
/** After a thread has ended: the others are on their way, unless it ended by itself. */
const CLOSE_LOOK_MS = 1;
const CLOSE_LOOKS_MAX = 100;

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
  #threads: readonly WatchedThread[] = [];
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

  onDying(callback: () => void): void {
    if (this.#dead || this.#closed) {
      this.onDeath(callback);
      return;
    }
    this.#dyingCallbacks.push(callback);
    if (this.#statFd < 0) {
      // One descriptor stays with this very process; a path could come to name another one.
      this.#statFd = openSync(`/proc/${this.pid}/stat`, "r");
      this.#waitForThreads();
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

  /** Of the first, which is QEMU's main loop, and of the one that was started next, which is there as long. */
  #waitForThreads(): void {
    const tids = readTids(this.pid);
    this.#threads = tids.slice(0, 2).flatMap((tid) => {
      const thread = watchThread(tid, () => {
        this.#lookClosely();
      });
      return thread === undefined ? [] : [thread];
    });
    if (this.#threads.length < 2) {
      this.#lookEvery(DYING_LOOK_MS, Infinity);
    }
  }

  #lookClosely(): void {
    this.#forgetThreads();
    this.#lookEvery(CLOSE_LOOK_MS, CLOSE_LOOKS_MAX);
  }

  /** At most `times`; then threads are waited for again. */
  #lookEvery(ms: number, times: number): void {
    let left = times;
    clearInterval(this.#dyingTimer);
    this.#dyingTimer = setInterval(() => {
      left -= 1;
      if (this.#isExiting()) {
        this.#noteDying();
      } else if (left === 0) {
        clearInterval(this.#dyingTimer);
        this.#waitForThreads();
      }
    }, ms);
    this.#dyingTimer.unref();
  }

  #forgetThreads(): void {
    for (const thread of this.#threads) {
      thread.close();
    }
    this.#threads = [];
  }

  #stopLooking(): void {
    clearInterval(this.#dyingTimer);
    this.#dyingTimer = undefined;
    this.#forgetThreads();
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

/** In the order in which they were started; none when the process is gone. */
function readTids(pid: number): readonly number[] {
  try {
    return readdirSync(`/proc/${pid}/task`).map(Number);
  } catch {
    return [];
  }
}

type WatchedThread = { close(): void };

/** Calls `onEnded` once. Undefined when the thread cannot be watched. */
function watchThread(tid: number, onEnded: () => void): WatchedThread | undefined {
  const pidfd = openThreadPidfd(tid);
  if (pidfd === undefined) {
    return undefined;
  }
  const watcher = watchReadable(pidfd, onEnded);
  watcher.unref();
  return {
    close: () => {
      watcher.close();
      closeSync(pidfd);
    },
  };
}

function guestGone(pid: number, cause?: unknown): GuestProcessFailure {
  return new GuestProcessFailure({ code: "ProcessGone", pid }, `process ${pid} is gone: start the guest anew`, {
    cause,
  });
}
