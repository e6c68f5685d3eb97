/**
 * What it costs to follow a crowd of ProtectedVMs on a real API server: memory and time to have them all, and processor time
 * while agents report. No guests run. That is the part of an operator which grows with their number; its own work comes on top.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parse } from "yaml";
import { Cluster } from "../../src/kube/cluster.ts";
import { kindOf, type KubeObject } from "../../src/kube/kube-object.ts";
import { present } from "../../src/lib/assert.ts";
import { buildReport } from "../build/engine-report.ts";
import { buildReportedSide } from "../build/guest-pair-rows.ts";
import { buildGuestPair } from "../build/resources.ts";
import { round } from "../lab/clients/figures.ts";
import { startControlPlane } from "../lab/kubernetes/control-plane.ts";
import { findRemedy } from "../lab/kubernetes/programs.ts";
import { type Bench } from "./bench.ts";
import { readProcessorSeconds } from "./processor-time.ts";
import { type Figure } from "./row.ts";

const crowdCount = 2_000;
const reportingCount = 200;
const reportEveryMs = 10_000;
const reportSeconds = 30;
const residentMebibytesMax = 200;
const syncedMsMax = 5_000;
const processorPercentMax = 2;
const namespace = "crowd";
const nodes = ["node-a", "node-b"] as const;
const root = join(import.meta.dirname, "../..");
const readYaml = (path: string): KubeObject => parse(readFileSync(join(root, path), "utf8")) as KubeObject;

type Follower = { readonly child: ChildProcess; readonly pid: number; readonly words: AsyncIterator<string> };
type Synced = { readonly syncedAfterMs: number; readonly count: number };

/** Nothing where there is no Kubernetes: that takes ten minutes to build and is not part of what every machine has. */
export async function measureObjects(bench: Bench): Promise<Figure[]> {
  const remedy = findRemedy(["etcd", "kube-apiserver"]);
  if (remedy !== undefined) {
    bench.say(`left out: ${remedy}`);
    return [];
  }
  const plane = await startControlPlane();
  const cluster = Cluster.fromKubeconfig(plane.kubeconfigPath);
  try {
    await createCrowd(cluster);
    bench.say(`${crowdCount} ProtectedVMs with their GuestPairs are there`);
    return [
      ...(await withFollower(plane.kubeconfigPath, (follower, synced) => measureCrowdFollowed(follower, synced))),
      ...(await withFollower(plane.kubeconfigPath, (follower) => measureReports(bench, cluster, follower))),
    ];
  } finally {
    cluster.close();
    await plane.stop();
  }
}

async function measureCrowdFollowed({ pid, child, words }: Follower, synced: Synced): Promise<Figure[]> {
  const atOnce = readMebibytes(pid, "VmRSS");
  await sleep(10_000);
  const resident = readMebibytes(pid, "VmRSS");
  const peak = readMebibytes(pid, "VmHWM");
  child.kill("SIGUSR2");
  const { workedCount } = await hear<{ workedCount: number }>(words);
  const detail = { objects: synced.count, workedCount, residentWhenSynced: atOnce, residentAfter10Seconds: resident };
  return [
    {
      row: {
        name: `${crowdCount} ProtectedVMs and GuestPairs followed: resident memory`,
        unit: "MiB",
        p50: resident,
        max: peak,
        target: `≤ ${residentMebibytesMax}`,
        met: peak <= residentMebibytesMax,
        detail,
      },
      samples: detail,
    },
    {
      row: {
        name: `${crowdCount} ProtectedVMs and GuestPairs followed: from the start of the process until all are known`,
        unit: "ms",
        p50: synced.syncedAfterMs,
        target: `≤ ${syncedMsMax}`,
        met: synced.syncedAfterMs <= syncedMsMax && synced.count === 2 * crowdCount,
        detail,
      },
      samples: detail,
    },
  ];
}

/** Both agents of 200 pairs say every 10 s how they are, and nothing else happens. */
async function measureReports(bench: Bench, cluster: Cluster, { pid }: Follower): Promise<Figure[]> {
  const seconds = bench.durationMs(reportSeconds) / 1000;
  const before = readProcessorSeconds(pid);
  const fromMs = performance.now();
  const pauseMs = reportEveryMs / (reportingCount * nodes.length);
  let count = 0;
  while (performance.now() - fromMs < seconds * 1000) {
    const index = Math.floor(count / nodes.length) % reportingCount;
    await reportSide(cluster, index, { node: nodes[count % nodes.length] ?? "", epoch: 1_000 + count });
    count += 1;
    await sleep(Math.max(0, fromMs + count * pauseMs - performance.now()));
  }
  const passedSeconds = (performance.now() - fromMs) / 1000;
  const percent = round((100 * (readProcessorSeconds(pid) - before)) / passedSeconds);
  const detail = { reportsPerSecond: round(count / passedSeconds), resident: readMebibytes(pid, "VmRSS") };
  return [
    {
      row: {
        name: `${reportingCount} idle pairs report, ${crowdCount} are followed: processor`,
        unit: "% of a core",
        p50: percent,
        target: `≤ ${processorPercentMax}`,
        met: percent <= processorPercentMax,
        detail,
      },
      samples: detail,
    },
  ];
}

async function createCrowd(cluster: Cluster): Promise<void> {
  const manager = "twinrun-operator";
  for (const name of ["guestpairs", "protectedvms"]) {
    await cluster.apply(readYaml(`crds/${name}.yaml`), manager);
  }
  await cluster.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } }, manager);
  for (const kind of ["ProtectedVM", "GuestPair"]) {
    while (!(await cluster.hasResource(kindOf("twinrun.dev/v1alpha1", kind)))) {
      await sleep(50);
    }
  }
  const sample = readYaml("config/samples/protected-vm.yaml");
  let next = 0;
  const create = async (): Promise<void> => {
    for (let index = next++; index < crowdCount; index = next++) {
      const metadata = { name: nameOf(index), namespace };
      await cluster.create({ ...sample, metadata: { ...metadata, labels: { app: "web" } } });
      const pair = buildGuestPair({ guest: nameOf(index) }) as unknown as KubeObject;
      await cluster.create({ ...pair, metadata: { ...metadata, labels: { "twinrun.dev/guest": nameOf(index) } } });
      for (const node of nodes) {
        await reportSide(cluster, index, { node, epoch: 1 });
      }
    }
  };
  await Promise.all(Array.from({ length: 8 }, create));
}

const nameOf = (index: number): string => `web-${String(index).padStart(4, "0")}`;

async function reportSide(
  cluster: Cluster,
  index: number,
  { node, epoch }: { readonly node: string; readonly epoch: number },
): Promise<void> {
  const report = buildReport({ role: node === nodes[0] ? "primary" : "standby", epoch });
  const status = { sides: [buildReportedSide(node, report)] };
  const { apiVersion, kind } = kindOf("twinrun.dev/v1alpha1", "GuestPair");
  await cluster.applyStatus(
    { apiVersion, kind, metadata: { name: nameOf(index), namespace }, status } as KubeObject,
    `twinrun-agent-${node}`,
  );
}

async function withFollower<T>(
  kubeconfigPath: string,
  body: (follower: Follower, synced: Synced) => Promise<T>,
): Promise<T> {
  const program = new URL("follower.ts", import.meta.url).pathname;
  const child = spawn(process.execPath, [program, kubeconfigPath], { stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise((resolve) => child.once("close", resolve));
  try {
    const words = child.stdout.setEncoding("utf8")[Symbol.asyncIterator]() as AsyncIterator<string>;
    return await body({ child, pid: present(child.pid, "process"), words }, await hear<Synced>(words));
  } finally {
    child.kill("SIGKILL");
    await ended;
  }
}

async function hear<T>(words: AsyncIterator<string>): Promise<T> {
  const { value } = (await words.next()) as { value?: string };
  return JSON.parse(present(value, "the follower ended")) as T;
}

function readMebibytes(pid: number, field: "VmRSS" | "VmHWM"): number {
  const line = new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return round(Number(present(line?.[1], `${field} of ${pid}`)) / 1024);
}
