/**
 * The C library as this folder uses it: the only file that declares foreign functions.
 *
 * Contract: every function here returns what C returns; {@link check} turns -1 into a Failure that names the call. Buffers are
 * passed as typed arrays or Buffers, whose bytes lie outside the JavaScript heap and do not move; {@link addressOf} is for the
 * few structures that hold pointers themselves, and who uses it keeps the array alive.
 *
 * Prototypes of variadic C functions (ioctl, syscall) are declared with fixed arguments: on Linux both x86-64 and arm64 pass
 * integer arguments of either kind alike, and koffi's variadic calls cost a type lookup each.
 */
import { constants } from "node:fs";
import { getSystemErrorName } from "node:util";
import koffi from "koffi";
import { Failure } from "../lib/failure.ts";

export class SystemCallFailure extends Failure<{
  readonly code: "SystemCallFailed";
  readonly call: string;
  readonly error: string;
}> {}

type Bytes = Uint8Array | Uint32Array | Int32Array | BigUint64Array;
const c = koffi.load(null);

/* eslint-disable max-params -- the prototypes are those of C */

// SAFETY: the prototypes are those of the Linux C library for 64-bit; each call site below says who owns the buffers.
export const ioctl = c.func("int ioctl(int fd, ulong request, void *argument)") as (
  fd: number,
  request: number,
  argument: Bytes,
) => number;
export const processVmReadv = c.func(
  "long process_vm_readv(int pid, void *local, ulong localCount, void *remote, ulong remoteCount, ulong flags)",
) as (pid: number, local: Bytes, localCount: number, remote: Bytes, remoteCount: number, flags: number) => number;
export const processVmWritev = c.func(
  "long process_vm_writev(int pid, void *local, ulong localCount, void *remote, ulong remoteCount, ulong flags)",
) as (pid: number, local: Bytes, localCount: number, remote: Bytes, remoteCount: number, flags: number) => number;
export const mmap = c.func("uintptr_t mmap(uintptr_t at, size_t bytes, int prot, int flags, int fd, long offset)") as (
  at: number,
  bytes: number,
  protection: number,
  flags: number,
  fd: number,
  offset: number,
) => number | bigint;
export const munmap = c.func("int munmap(uintptr_t at, size_t bytes)") as (at: bigint, bytes: number) => number;
export const lseek = c.func("int64_t lseek(int fd, int64_t offset, int whence)") as (
  fd: number,
  offset: number,
  whence: number,
) => number;
export const fallocate = c.func("int fallocate(int fd, int mode, int64_t offset, int64_t length)") as (
  fd: number,
  mode: number,
  offset: number,
  length: number,
) => number;
export const posixFadvise = c.func("int posix_fadvise(int fd, int64_t offset, int64_t length, int advice)") as (
  fd: number,
  offset: number,
  length: number,
  advice: number,
) => number;
export const flock = c.func("int flock(int fd, int operation)") as (fd: number, operation: number) => number;
const fcntl = c.func("int fcntl(int fd, int command, int argument)") as (
  fd: number,
  command: number,
  argument: number,
) => number;
export const timerfdCreate = c.func("int timerfd_create(int clock, int flags)") as (
  clock: number,
  flags: number,
) => number;
export const timerfdSettime = c.func("int timerfd_settime(int fd, int flags, void *newValue, void *oldValue)") as (
  fd: number,
  flags: number,
  newValue: Bytes,
  oldValue: Bytes | null,
) => number;
export const usleep = c.func("int usleep(uint microseconds)") as (microseconds: number) => number;
export const setpriority = c.func("int setpriority(int which, uint who, int priority)") as (
  which: number,
  who: number,
  priority: number,
) => number;
export const schedSetscheduler = c.func("int sched_setscheduler(int pid, int policy, void *parameter)") as (
  pid: number,
  policy: number,
  parameter: Bytes,
) => number;
export const mallocTrim = c.func("int malloc_trim(size_t kept)") as (kept: number) => number;
const syscall = c.func("long syscall(long number, long a, long b, long c, long d, long e)") as (
  number: number,
  a: number,
  b: number,
  c: number,
  d: number,
  e: number,
) => number;

/* eslint-enable max-params */

// The pidfd calls have one number on all architectures; kcmp is older than that agreement.
const SYS_KCMP = process.arch === "arm64" ? 272 : 312;
const SYS_PIDFD_SEND_SIGNAL = 424;
const SYS_PIDFD_OPEN = 434;
const SYS_PIDFD_GETFD = 438;

/** The error number of the last call above. */
export function readErrno(): number {
  return koffi.errno();
}

/** `result` unless it says failure; then a Failure naming the call, the error and what to do. */
export function check(result: number, call: string, remedy: string): number {
  if (result >= 0) {
    return result;
  }
  throw systemCallFailure(call, remedy);
}

export function systemCallFailure(call: string, remedy: string): SystemCallFailure {
  const error = getSystemErrorName(-koffi.errno());
  return new SystemCallFailure({ code: "SystemCallFailed", call, error }, `${call} failed with ${error}: ${remedy}`);
}

/** Where the bytes of a typed array lie. The caller keeps the array referenced as long as the address is in use. */
export function addressOf(bytes: Bytes): bigint {
  return koffi.address(bytes);
}

/** A file mapping shared with other processes, as JavaScript bytes. Not to be touched after {@link Mapping.close}. */
export type Mapping = { readonly bytes: ArrayBuffer; close(): void };

export function openMapping(fd: number, bytes: number): Mapping {
  const PROT_READ_WRITE = 3;
  const MAP_SHARED = 1;
  // SAFETY: the kernel picks an unused place; the mapping is ours until close().
  const at = BigInt(mmap(0, bytes, PROT_READ_WRITE, MAP_SHARED, fd, 0));
  if (at === 0xffff_ffff_ffff_ffffn) {
    throw systemCallFailure("mmap", "check the memory limit of this process");
  }
  // SAFETY: exactly the bytes mapped above. The owner drops every view before close() unmaps them.
  return { bytes: koffi.view(at, bytes), close: () => void munmap(at, bytes) };
}

/** Makes the pipe behind `fd` hold at least `bytes`; returns what it holds then, or -1 when the kernel refuses. */
export function enlargePipe(fd: number, bytes: number): number {
  const F_SETPIPE_SZ = 1031;
  // SAFETY: integers only.
  return fcntl(fd, F_SETPIPE_SZ, bytes);
}

export function openPidfd(pid: number): number {
  // SAFETY: integers only.
  return check(syscall(SYS_PIDFD_OPEN, pid, 0, 0, 0, 0), "pidfd_open", `process ${pid} has to be alive`);
}

/** Readable when that one thread has ended. Undefined where the kernel has no such thing (before 6.9) or the thread is gone. */
export function openThreadPidfd(tid: number): number | undefined {
  const PIDFD_THREAD = constants.O_EXCL;
  // SAFETY: integers only.
  const pidfd = syscall(SYS_PIDFD_OPEN, tid, PIDFD_THREAD, 0, 0, 0);
  return pidfd < 0 ? undefined : pidfd;
}

/** A duplicate of descriptor `fd` of the process behind `pidfd`; close-on-exec, as the kernel makes it. */
export function openDuplicate(pidfd: number, fd: number): number {
  // SAFETY: integers only.
  const copy = syscall(SYS_PIDFD_GETFD, pidfd, fd, 0, 0, 0);
  return check(copy, "pidfd_getfd", "run as root or with CAP_SYS_PTRACE, and with the guest alive");
}

export function sendSignal(pidfd: number, signal: number): number {
  // SAFETY: integers only; a null siginfo is allowed.
  return syscall(SYS_PIDFD_SEND_SIGNAL, pidfd, signal, 0, 0, 0);
}

/** Whether two descriptors of two processes are one open file. Undefined where the kernel cannot tell. */
export function isSameFile(pid: number, fd: number, otherPid: number, otherFd: number): boolean | undefined {
  const KCMP_FILE = 0;
  // SAFETY: integers only.
  const order = syscall(SYS_KCMP, pid, otherPid, KCMP_FILE, fd, otherFd);
  if (order >= 0) {
    return order === 0;
  }
  return getSystemErrorName(-koffi.errno()) === "EBADF" ? false : undefined;
}

/** Calls `callback` from the event loop while `fd` is readable. Level triggered. */
export function watchReadable(fd: number, callback: () => void): { close(): void; unref(): void } {
  const watcher = koffi.node.poll(fd, { readable: true }, callback);
  return {
    close: () => {
      watcher.close();
    },
    unref: () => {
      watcher.unref();
    },
  };
}
