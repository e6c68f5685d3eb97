/**
 * The operator's own process in front of a real API server: what 200 idle ProtectedVMs cost it, how soon it has looked at every
 * one after a restart, how often anybody writes when nothing changes, and whether 2,000 objects hold. No guests run; what is
 * played instead is in played-cluster.ts.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { Agent, get } from "node:https";
import { type AddressInfo, createServer } from "node:net";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { parse, parseAllDocuments } from "yaml";
import { customResources } from "../../src/api/custom-resources.ts";
import { Cluster } from "../../src/kube/cluster.ts";
import { kindOf, type KubeObject } from "../../src/kube/kube-object.ts";
import { Reflector } from "../../src/kube/reflector.ts";
import { present } from "../../src/lib/assert.ts";
import { parsePrometheusText } from "../build/prometheus-text.ts";
import { round } from "../lab/clients/figures.ts";
import { type ControlPlane, startControlPlane } from "../lab/kubernetes/control-plane.ts";
import { findRemedy } from "../lab/kubernetes/programs.ts";
import { type TlsFiles } from "../../src/protocol/assignment.ts";
import { type Bench } from "./bench.ts";
import { nodePairs, PlayedCluster, systemNamespace } from "./played-cluster.ts";
import { readProcessorSeconds } from "./processor-time.ts";
import { type Figure } from "./row.ts";

const idleCount = 200;
const crowdCount = 2_000;
const idleSeconds = 60;
/** What was new has been compiled and written by then. */
const settleSeconds = 45;
const tenantNamespace = "shop";
/** To make them all takes minutes on two cores. */
const patienceMs = 900_000;
const targets = { mebibytes: 200, percent: 2, caughtUpMs: 5_000, writesPerTenSeconds: 1 };
const root = join(import.meta.dirname, "../..");
const kinds = {
  vm: kindOf("twinrun.dev/v1alpha1", "ProtectedVM"),
  pair: kindOf("twinrun.dev/v1alpha1", "GuestPair"),
  vmi: kindOf("kubevirt.io/v1", "VirtualMachineInstance"),
  dataVolume: kindOf("cdi.kubevirt.io/v1beta1", "DataVolume"),
  claim: kindOf("v1", "PersistentVolumeClaim"),
};

/** Nothing where there is no Kubernetes: that takes ten minutes to build and is not part of what every machine has. */
export async function measureOperator(bench: Bench): Promise<Figure[]> {
  const remedy = findRemedy(["etcd", "kube-apiserver"]);
  if (remedy !== undefined) {
    bench.say(`left out: ${remedy}`);
    return [];
  }
  const plane = await startControlPlane();
  const cluster = Cluster.fromKubeconfig(plane.kubeconfigPath);
  let stage: Stage | undefined;
  try {
    stage = await Stage.open(bench, plane, cluster);
    const idle = await measureIdle(stage, bench.count(idleCount));
    const crowd = await measureCrowd(stage);
    return [...idle, ...crowd];
  } finally {
    await stage?.close();
    cluster.close();
    await plane.stop();
  }
}

async function measureIdle(stage: Stage, count: number): Promise<Figure[]> {
  const { bench } = stage;
  const readyAfterMs = await stage.grow(count, readSample());
  bench.say(`${count} ProtectedVMs are Ready after ${readyAfterMs} ms`);
  await sleep(bench.durationMs(settleSeconds));
  const { pid } = stage.operator;
  const [before, writesBefore] = [readProcessorSeconds(pid), await stage.readWritesCount()];
  const fromMs = performance.now();
  const endCounting = await countWrites(stage.cluster);
  await sleep(bench.durationMs(idleSeconds));
  const perObject = await endCounting();
  const seconds = (performance.now() - fromMs) / 1000;
  const percent = round((100 * (readProcessorSeconds(pid) - before)) / seconds);
  const requests = (await stage.readWritesCount()) - writesBefore;
  const memory = { residentNow: readMebibytes(pid, "VmRSS"), peak: readMebibytes(pid, "VmHWM") };
  const restarts = await measureRestarts(stage, count);
  const worst = round((10 * Math.max(0, ...perObject.values())) / seconds);
  const detail = { readyAfterMs, seconds: round(seconds), ...memory };
  const writes = {
    writtenObjects: perObject.size,
    worst,
    // Of everybody, what changed nothing included: ProtectedVMs, pairs, instances, volumes and claims.
    requestsPerTenSecondsOfAGuest: round((10 * requests) / seconds / count),
  };
  return [
    row({ name: `operator, ${count} idle ProtectedVMs: resident memory`, unit: "MiB" }, memory.residentNow, {
      max: memory.peak,
      limit: targets.mebibytes,
      detail,
    }),
    row({ name: `operator, ${count} idle ProtectedVMs: processor`, unit: "% of a core" }, percent, {
      max: percent,
      limit: targets.percent,
      detail,
    }),
    row(
      { name: `${count} idle ProtectedVMs: writes of an object in 10 s`, unit: "" },
      round((10 * sum(perObject.values())) / seconds / count / 2),
      {
        max: worst,
        limit: targets.writesPerTenSeconds,
        detail: writes,
      },
    ),
    restartRow(count, restarts),
  ];
}

async function measureCrowd(stage: Stage): Promise<Figure[]> {
  const { bench } = stage;
  const count = bench.count(crowdCount);
  const readyAfterMs = await stage.grow(count, withoutDisks(readSample()));
  bench.say(`${count} ProtectedVMs are Ready after ${readyAfterMs} ms`);
  await sleep(bench.durationMs(15));
  const { pid } = stage.operator;
  const before = readProcessorSeconds(pid);
  const fromMs = performance.now();
  await sleep(bench.durationMs(20));
  const percent = round((100 * (readProcessorSeconds(pid) - before)) / ((performance.now() - fromMs) / 1000));
  const memory = { residentNow: readMebibytes(pid, "VmRSS"), peak: readMebibytes(pid, "VmHWM") };
  const restarts = await measureRestarts(stage, count);
  const afterRestart = {
    residentNow: readMebibytes(stage.operator.pid, "VmRSS"),
    peak: readMebibytes(stage.operator.pid, "VmHWM"),
  };
  const detail = { readyAfterMs, percentOfACore: percent, ...memory, afterRestart };
  return [
    // Those beyond the idle ones have no disks.
    row({ name: `operator, ${count} ProtectedVMs, all Ready: resident memory`, unit: "MiB" }, memory.residentNow, {
      max: Math.max(memory.peak, afterRestart.peak),
      limit: targets.mebibytes,
      detail,
    }),
    restartRow(count, restarts),
  ];
}

type Sample = KubeObject & { readonly spec: { readonly virtualMachineTemplate: { readonly spec: MachineSpec } } };

const readSample = (): Sample => parse(readFileSync(join(root, "config/samples/protected-vm.yaml"), "utf8")) as Sample;

/** An API server on two cores takes minutes to store two thousand guests as it is. */
function withoutDisks(sample: Sample): Sample {
  const changed = structuredClone(sample);
  const machine = changed.spec.virtualMachineTemplate.spec;
  delete machine.dataVolumeTemplates;
  delete machine.template.spec.volumes;
  delete machine.template.spec.domain.devices.disks;
  return changed;
}

type MachineSpec = {
  dataVolumeTemplates?: unknown;
  template: { spec: { volumes?: unknown; domain: { devices: { disks?: unknown } } } };
};

const sum = (values: Iterable<number>): number => [...values].reduce((total, value) => total + value, 0);

/** In order, as a rollout does it: the lead is given back. From the start of the process until every object was looked at. */
async function measureRestarts(stage: Stage, count: number): Promise<readonly number[]> {
  const times: number[] = [];
  stage.played.isSilent = true; // A second look at one would be counted for another's first.
  for (let time = 0; time < 3; time += 1) {
    await stage.stopOperator();
    const startedAtMs = performance.now();
    await stage.startOperator();
    await stage.waitUntil(
      async () => (await stage.readMetric("twinrun_operator_reconcile_seconds_count")) >= count,
      20,
    );
    times.push(Math.round(performance.now() - startedAtMs));
    await sleep(2_000);
  }
  stage.played.isSilent = false;
  return times;
}

function restartRow(count: number, times: readonly number[]): Figure {
  const worst = Math.max(...times);
  return row(
    { name: `operator restarted: every one of ${count} ProtectedVMs looked at`, unit: "ms" },
    times.toSorted((one, other) => one - other)[Math.floor(times.length / 2)] ?? NaN,
    { max: worst, limit: targets.caughtUpMs, detail: { times } },
  );
}

type Rest = { readonly max: number; readonly limit: number; readonly detail: Readonly<Record<string, unknown>> };

function row({ name, unit }: { readonly name: string; readonly unit: string }, p50: number, rest: Rest): Figure {
  const { max, limit, detail } = rest;
  return { row: { name, unit, p50, max, target: `≤ ${limit}`, met: max <= limit, detail }, samples: detail };
}

/** How often each object of ours was changed, whoever did it, until the returned function is called. */
async function countWrites(cluster: Cluster): Promise<() => Promise<ReadonlyMap<string, number>>> {
  const counts = new Map<string, number>();
  const reflectors = Object.values(kinds).map((kind) => {
    const reflector = new Reflector<KubeObject, string>({ cluster, kind, keep: ({ metadata }) => metadata.uid ?? "" });
    reflector.start();
    return { reflector, kind };
  });
  await Promise.all(reflectors.map(({ reflector }) => reflector.synced()));
  for (const { reflector, kind } of reflectors) {
    reflector.onChange(({ key }) => {
      const name = `${kind.kind} ${key}`;
      counts.set(name, (counts.get(name) ?? 0) + 1);
    });
  }
  return async () => {
    await Promise.all(reflectors.map(({ reflector }) => reflector.stop()));
    return counts;
  };
}

type Running = { readonly child: ChildProcess; readonly pid: number };

/** Everything that there is around the operator, and the operator. */
class Stage {
  readonly bench: Bench;
  readonly cluster: Cluster;
  readonly played: PlayedCluster;
  readonly #plane: ControlPlane;
  readonly #certificate: TlsFiles;
  readonly #port: number;
  readonly #agent: Agent;
  #operator: Running | undefined;
  #startsCount = 0;
  #guestsCount = 0;

  private constructor(
    bench: Bench,
    parts: { plane: ControlPlane; cluster: Cluster; played: PlayedCluster; certificate: TlsFiles; port: number },
  ) {
    this.bench = bench;
    this.cluster = parts.cluster;
    this.played = parts.played;
    this.#plane = parts.plane;
    this.#certificate = parts.certificate;
    this.#port = parts.port;
    const { certPath, keyPath, caPath } = parts.certificate;
    const [cert, key, ca] = [certPath, keyPath, caPath].map((path) => readFileSync(path));
    // It is our own, whatever name it has.
    this.#agent = new Agent({ keepAlive: true, cert, key, ca, checkServerIdentity: () => undefined });
  }

  static async open(bench: Bench, plane: ControlPlane, cluster: Cluster): Promise<Stage> {
    await installKinds(cluster);
    for (const name of [systemNamespace, `${systemNamespace}-guests`, tenantNamespace]) {
      await cluster.create({ apiVersion: "v1", kind: "Namespace", metadata: { name } });
      await cluster.create({
        apiVersion: "v1",
        kind: "ServiceAccount",
        metadata: { name: "default", namespace: name },
      });
    }
    const certificate = await issueCertificate(plane);
    const played = await PlayedCluster.start(cluster);
    const stage = new Stage(bench, { plane, cluster, played, certificate, port: await findFreePort() });
    await stage.startOperator();
    return stage;
  }

  async close(): Promise<void> {
    this.#agent.destroy();
    await this.stopOperator();
    await this.played.stop();
  }

  get operator(): Running {
    return present(this.#operator, "the operator runs");
  }

  async startOperator(): Promise<void> {
    this.#startsCount += 1;
    const { certPath, keyPath, caPath } = this.#certificate;
    const args = [
      // As the chart starts it.
      "--max-semi-space-size=4",
      ...[join(root, "src/main/operator.ts"), `--namespace=${systemNamespace}`, "--hook-image=twinrun/hook:bench"],
      ...[`--identity=operator-${this.#startsCount}`, `--kubeconfig=${this.#plane.kubeconfigPath}`, "--log-level=warn"],
      `--metrics=127.0.0.1:${this.#port}`,
      ...[`--cert=${certPath}`, `--key=${keyPath}`, `--ca=${caPath}`],
    ];
    const child = spawn(process.execPath, args, { stdio: ["ignore", process.stderr, "inherit"] });
    await once(child, "spawn");
    const running = { child, pid: present(child.pid, "process") };
    this.#operator = running;
    // A kubelet does the same.
    child.once("exit", () => {
      if (this.#operator === running) {
        this.bench.say("  the operator ended by itself and is started again");
        void this.startOperator();
      }
    });
  }

  async stopOperator(): Promise<void> {
    const running = this.#operator;
    this.#operator = undefined;
    if (running !== undefined && running.child.exitCode === null) {
      running.child.kill("SIGTERM");
      await once(running.child, "exit");
    }
  }

  /** Until there are so many ProtectedVMs, all Ready; for how long that took. */
  async grow(count: number, sample: Sample): Promise<number> {
    const fromMs = performance.now();
    const create = async (): Promise<void> => {
      while (this.#guestsCount < count) {
        this.#guestsCount += 1;
        const name = `web-${String(this.#guestsCount).padStart(4, "0")}`;
        const placement = { nodes: nodePairs[this.#guestsCount % nodePairs.length] };
        const metadata = { name, namespace: tenantNamespace, labels: { app: "web" } };
        await this.cluster.create({ ...sample, metadata, spec: { ...sample.spec, placement } });
      }
    };
    await Promise.all(Array.from({ length: 4 }, create));
    const countReady = (): Promise<number> => this.readMetric("twinrun_protected_vms", { reason: "Protected" });
    await this.waitUntil(async () => (await countReady()) >= count, 500);
    return Math.round(performance.now() - fromMs);
  }

  async waitUntil(holds: () => Promise<boolean>, everyMs: number): Promise<void> {
    const deadlineMs = performance.now() + patienceMs;
    while (!(await holds())) {
      if (performance.now() > deadlineMs) {
        throw new Error(`waited in vain; the operator says:\n${(await this.#readMetrics()) ?? "nothing"}`);
      }
      await sleep(everyMs);
    }
  }

  /** 0 while there is none. */
  async readMetric(name: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
    const text = await this.#readMetrics();
    const families = text === undefined ? [] : [...parsePrometheusText(text).values()];
    const found = families
      .flatMap(({ samples }) => samples)
      .find(
        (sample) =>
          sample.name === name && Object.entries(labels).every(([key, value]) => sample.labels[key] === value),
      );
    return found?.value ?? 0;
  }

  /** Of requests that write objects of ours, whoever sent them. */
  async readWritesCount(): Promise<number> {
    const { body } = await this.#plane.admin.send("GET", "/metrics", { accept: "text/plain" });
    const resources = Object.values(kinds)
      .map(({ plural }) => plural)
      .join("|");
    const line = new RegExp(
      `^apiserver_request_total\\{.*resource="(${resources})".*verb="(POST|PUT|PATCH|APPLY|DELETE)".*\\} (\\S+)$`,
    );
    return sum(
      String(body)
        .split("\n")
        .map((text) => Number(line.exec(text)?.[3] ?? 0)),
    );
  }

  /** Undefined while it does not serve. */
  #readMetrics(): Promise<string | undefined> {
    return new Promise((resolve) => {
      const options = { host: "127.0.0.1", port: this.#port, path: "/metrics", agent: this.#agent };
      const sent = get(options, (answer) => {
        let text = "";
        answer.setEncoding("utf8").on("data", (part: string) => (text += part));
        answer
          .on("end", () => {
            resolve(text);
          })
          .on("error", () => {
            resolve(undefined);
          });
      });
      sent.on("error", () => {
        resolve(undefined);
      });
    });
  }
}

async function installKinds(cluster: Cluster): Promise<void> {
  const files = [
    ...customResources.map(({ plural }) => `crds/${plural}.yaml`),
    "test/lab/kubernetes/kubevirt-crds.yaml",
  ];
  const definitions = files.flatMap((file) => parseAllDocuments(readFileSync(join(root, file), "utf8")));
  await Promise.all(definitions.map((definition) => cluster.apply(definition.toJS() as KubeObject, "bench")));
  for (const kind of Object.values(kinds)) {
    // Served a moment after it is known.
    while (
      !(await cluster.list(kind).then(
        () => true,
        () => false,
      ))
    ) {
      await sleep(50);
    }
  }
}

/** Both ends of the metrics have it. */
async function issueCertificate(plane: ControlPlane): Promise<TlsFiles> {
  const directory = join(dirname(plane.kubeconfigPath), "pki");
  const { stdout } = await promisify(execFile)(process.execPath, [
    ...[join(root, "src/main/pki.ts"), "--dir", directory, "--quorum", "operator"],
  ]);
  return JSON.parse(stdout.split("\n")[0] ?? "") as TlsFiles;
}

async function findFreePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

function readMebibytes(pid: number, field: "VmRSS" | "VmHWM"): number {
  const line = new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return round(Number(present(line?.[1], `${field} of ${pid}`)) / 1024);
}
