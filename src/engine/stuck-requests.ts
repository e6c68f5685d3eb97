/**
 * Files that a process waits for at this moment, by its threads' system calls: what a QEMU that has ceased to answer has been asked
 * of a disk that does not answer either. Nothing here touches those files, for that would wait with it.
 *
 * Sees QEMU's aio=threads, the default of files; requests by Linux AIO or io_uring have no thread that waits for them.
 *
 * See proc_pid_syscall(5). The numbers are those of x86-64, which is what Twinrun runs on.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";

/** read, write, pread64, pwrite64, readv, writev, fsync, fdatasync, fallocate, preadv, pwritev, preadv2, pwritev2. */
const FILE_CALLS: ReadonlySet<number> = new Set([0, 1, 17, 18, 19, 20, 74, 75, 285, 295, 296, 327, 328]);

/** Paths as the process names them; empty when it waits for no file, or cannot be looked into. */
export function listAwaitedFiles(pid: number): readonly string[] {
  const process = `/proc/${pid.toString()}`;
  const descriptors = list(`${process}/task`).flatMap((thread) => readAwaited(`${process}/task/${thread}`) ?? []);
  return [...new Set(descriptors)].flatMap((descriptor) => {
    const path = tryTo(() => readlinkSync(`${process}/fd/${descriptor.toString()}`));
    return path?.startsWith("/") === true ? [path] : [];
  });
}

/** The descriptor, of a thread that waits in such a call: "18 0x1d ...". One that runs says "running". */
function readAwaited(thread: string): number | undefined {
  const said = tryTo(() => readFileSync(`${thread}/syscall`, "utf8")) ?? "";
  const [call = "", descriptor = ""] = said.split(" ");
  return call !== "" && FILE_CALLS.has(Number(call)) ? Number(descriptor) : undefined;
}

const list = (directory: string): readonly string[] => tryTo(() => readdirSync(directory)) ?? [];

/** The process may end at any moment. */
function tryTo<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}

/** Of a disk's file in a pod the folders above are named differently from outside. */
export function isSameFile(one: string, other: string): boolean {
  const end = (path: string): string => path.split("/").slice(-2).join("/");
  return end(one) === end(other);
}
