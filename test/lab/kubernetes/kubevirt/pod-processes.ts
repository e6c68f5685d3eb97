/**
 * Processes of a pod as this machine sees them: nodes of the lab are namespaces on it, so their processes are in its /proc.
 * Whoever has one of a pod's processes has the pod's network namespace, its files and, by its parents, the node.
 */
import { readdirSync, readFileSync } from "node:fs";

export type LauncherProcess = {
  /** virt-launcher in the compute container. */
  readonly pid: number;
  /** The container's shim, which is in the node's own namespaces. */
  readonly shimPid: number;
};

export function findLauncher(podUid: string): LauncherProcess | undefined {
  for (const name of readdirSync("/proc")) {
    if (/^[0-9]+$/.test(name) && isLauncherOf(Number(name), podUid)) {
      const pid = Number(name);
      const monitor = readParent(pid);
      const shimPid = monitor === undefined ? undefined : readParent(monitor);
      return shimPid === undefined ? undefined : { pid, shimPid };
    }
  }
  return undefined;
}

function isLauncherOf(pid: number, podUid: string): boolean {
  return (
    readProc(pid, "cgroup").includes(podUid) && /\/bin\/node\0.*\/virt-launcher[.]ts\0/.test(readProc(pid, "cmdline"))
  );
}

function readParent(pid: number): number | undefined {
  const match = /^PPid:\s+([0-9]+)$/m.exec(readProc(pid, "status"));
  return match === null ? undefined : Number(match[1]);
}

function readProc(pid: number, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, "utf8");
  } catch {
    return ""; // It ended.
  }
}
