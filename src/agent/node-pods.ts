/**
 * Which pod a process of this node is in, told by what the pod itself cannot choose: its cgroup, whose name has the pod's uid, and
 * the directory that kubelet makes for a pod's logs before it starts anything, NAMESPACE_NAME_UID. Neither asks the API server.
 */
import { readdirSync, readFileSync } from "node:fs";

export type PodName = { readonly namespace: string; readonly name: string };

/** Undefined for a process that is in no pod, or has gone. */
export function findPodOf(pid: number, logsDirectory: string, proc = "/proc"): PodName | undefined {
  const uid = readPodUid(`${proc}/${pid}/cgroup`);
  const found = uid === undefined ? undefined : listNames(logsDirectory).find((name) => name.endsWith(`_${uid}`));
  const [namespace, name] = found?.split("_") ?? [];
  return namespace === undefined || name === undefined ? undefined : { namespace, name };
}

/** Of the text of /proc/PID/cgroup: with the driver cgroupfs /…/podUID/CONTAINER, with systemd /…-podUID.slice/…, - written _. */
export function parsePodUid(cgroups: string): string | undefined {
  const match = /pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?:\.slice)?\//.exec(cgroups);
  return match?.[1]?.replaceAll("_", "-");
}

function readPodUid(path: string): string | undefined {
  try {
    return parsePodUid(readFileSync(path, "utf8"));
  } catch {
    return undefined;
  }
}

function listNames(directory: string): readonly string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}
