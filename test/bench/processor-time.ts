/**
 * Where the machine's processor time went while something was measured: the profile that explains a figure, and the proof that
 * nothing else on the machine spoilt it.
 */
import { readFileSync } from "node:fs";
import { round } from "../lab/clients/figures.ts";
import { type HostName, type Lab } from "../lab/hosts.ts";

const hosts: readonly HostName[] = ["a", "b", "q", "c"];
/** Of the figures in /proc/PID/stat and /proc/stat. */
const ticksPerSecond = 100;

type Reading = { readonly atMs: number; readonly busySeconds: number; readonly byPid: ReadonlyMap<number, Process> };
type Process = { readonly name: string; readonly seconds: number };

/** Percent of one core, by host and program; `others` is what ran outside of the lab. */
export type ProcessorShares = Readonly<Record<string, number>>;

/** Starts to count; the function it returns ends it. Processes that end in between are not seen. */
export function countProcessorTime(lab: Lab): () => ProcessorShares {
  const before = readAll(lab);
  return () => {
    const after = readAll(lab);
    const seconds = (after.atMs - before.atMs) / 1000;
    const percent = (used: number): number => round((100 * used) / seconds);
    const shares: Record<string, number> = {};
    let inLabSeconds = 0;
    for (const [pid, { name, seconds: total }] of after.byPid) {
      const used = total - (before.byPid.get(pid)?.seconds ?? 0);
      inLabSeconds += used;
      shares[name] = round((shares[name] ?? 0) + percent(used));
    }
    return { ...shares, others: Math.max(0, percent(after.busySeconds - before.busySeconds - inLabSeconds)) };
  };
}

export function readProcessorSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

function readAll(lab: Lab): Reading {
  const byPid = new Map<number, Process>();
  for (const host of hosts) {
    for (const pid of lab.listProcesses(host)) {
      try {
        byPid.set(pid, { name: `${host} ${nameOf(pid)}`, seconds: readProcessorSeconds(pid) });
      } catch {
        // It ended while we looked.
      }
    }
  }
  return { atMs: performance.now(), busySeconds: readBusySeconds(), byPid };
}

function nameOf(pid: number): string {
  const words = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  const script = words.find((word) => word.endsWith(".ts"));
  return (script ?? words[0] ?? "").replace(/^.*[/]/, "").replace(/[.]ts$/, "");
}

function readBusySeconds(): number {
  // user nice system idle iowait irq softirq steal; guest time is in user already.
  const [, user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] =
    readFileSync("/proc/stat", "utf8").slice(0, 200).split("\n")[0]?.split(/\s+/).map(Number) ?? [];
  return (user + nice + system + irq + softirq + steal) / ticksPerSecond;
}
