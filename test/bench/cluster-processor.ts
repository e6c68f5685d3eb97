/**
 * Where processor time goes on the lab's cluster, in milliseconds so far, by whom:
 *
 *   engine, agent, operator, quorum, etcd   the pods of Twinrun; engines are children of agents
 *   launcher                                pods of protected guests without QEMU: virt-launcher, libvirt, the hook, what they run
 *   qemu, standby qemu                      QEMU of protected guests, by the shape it was started in
 *   plain launcher, plain qemu              the same of a guest without protection
 *   kubevirt                                this process, in which the lab's KubeVirt has its controllers and virt-handler
 *
 * Pods are read from their control groups, so that processes which came and went count too; single programs from the scheduler,
 * to the nanosecond: ticks do not see what runs for a tenth of a millisecond.
 */
import { readdirSync, readFileSync } from "node:fs";
import { GUEST_LABEL, vmiAnnotations } from "../../src/api/vmi-contract.ts";
import { type KubeObject } from "../../src/kube/kube-object.ts";

const COMPONENT = "app.kubernetes.io/component";

type PodUsage = { readonly totalMs: number; readonly engineMs: number; readonly qemuMs: number };

export function readClusterProcessor(pods: readonly KubeObject[]): Record<string, number> {
  const used: Record<string, number> = {};
  const add = (name: string, ms: number): void => {
    used[name] = (used[name] ?? 0) + ms;
  };
  const processes = listProcesses();
  for (const { metadata } of pods) {
    const usage = readPod(metadata.uid ?? "", processes);
    const component = metadata.labels?.[COMPONENT];
    if (usage === undefined) {
      continue;
    }
    if (component !== undefined) {
      add(component, usage.totalMs - usage.engineMs);
      add("engine", usage.engineMs);
    } else if (metadata.labels?.["kubevirt.io"] === "virt-launcher") {
      const isPlain = metadata.labels[GUEST_LABEL] === undefined;
      const isStandby = metadata.annotations?.[vmiAnnotations.startedAs] === "standby";
      add(isPlain ? "plain launcher" : "launcher", usage.totalMs - usage.qemuMs);
      add(isPlain ? "plain qemu" : isStandby ? "standby qemu" : "qemu", usage.qemuMs);
    }
  }
  const { user, system } = process.cpuUsage();
  return { ...used, kubevirt: (user + system) / 1_000 };
}

type Process = { readonly pid: string; readonly controlGroup: string; readonly command: string };

function listProcesses(): readonly Process[] {
  return readdirSync("/proc")
    .filter((name) => /^[0-9]+$/.test(name))
    .map((pid) => ({ pid, controlGroup: readProc(pid, "cgroup"), command: readProc(pid, "cmdline") }));
}

function readPod(uid: string, processes: readonly Process[]): PodUsage | undefined {
  const own = processes.filter(({ controlGroup }) => controlGroup.includes(`pod${uid}`));
  const path = new RegExp(`:cpuacct:(.*pod${uid})`).exec(own[0]?.controlGroup ?? "")?.[1];
  if (path === undefined) {
    return undefined;
  }
  const sum = (program: RegExp): number =>
    own.filter(({ command }) => program.test(command)).reduce((total, { pid }) => total + readProcessMs(pid), 0);
  return {
    totalMs: Number(readFileSync(`/sys/fs/cgroup/cpuacct${path}/cpuacct.usage`, "utf8")) / 1e6,
    engineMs: sum(/\/main\/engine[.]ts\0/),
    qemuMs: sum(/^[^\0]*qemu-[^\0]*\0-name\0/),
  };
}

/** Of all its threads that there are. */
function readProcessMs(pid: string): number {
  try {
    return readdirSync(`/proc/${pid}/task`).reduce(
      (total, tid) => total + Number(readProc(pid, `task/${tid}/schedstat`).split(" ")[0]) / 1e6,
      0,
    );
  } catch {
    return 0; // It ended.
  }
}

function readProc(pid: string, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, "utf8");
  } catch {
    return ""; // It ended.
  }
}
