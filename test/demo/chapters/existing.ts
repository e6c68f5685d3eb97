/**
 * `make demo CLUSTER=existing`, and with more faults `make e2e CLUSTER=existing`: Twinrun on the cluster of your KUBECONFIG,
 * which has KubeVirt and Multus. A guest there is protected, faults that an API can cause are done to it, and a client with one
 * connection counts. Exit status 1 when it saw anything wrong.
 *
 * The environment says what is particular to the cluster:
 *
 *   GUEST            a manifest with one ProtectedVM (config/samples/existing-cluster.yaml unless told, which must be adapted)
 *   ADDRESS          where its guest answers numbered lines, HOST:PORT (10.77.0.60:7000)
 *   CLIENT           what runs a command where the guest is to be reached (kubectl exec of the sample's pod)
 *   IMAGE_REGISTRY   where the images are, the name of a folder in it included (docker.io/twinrun)
 *   HELM_ARGS        more for helm install, e.g. --set quorum.store=lease with fewer than three nodes
 *
 * A Twinrun that is installed already is used as it is, and stays.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { stripTypeScriptTypes } from "node:module";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { parseAllDocuments } from "yaml";
import { type ProtectedVm } from "../../../src/api/protected-vm.ts";
import { present } from "../../../src/lib/assert.ts";
import { type KubeObject } from "../../../src/kube/kube-object.ts";
import { Narrator } from "../narrator.ts";
import { Shell } from "../shell.ts";

const root = join(import.meta.dirname, "../../..");
const { GUEST, ADDRESS, CLIENT, IMAGE_REGISTRY, HELM_ARGS } = process.env;
const orElse = (value: string | undefined, otherwise: string): string =>
  value === undefined || value === "" ? otherwise : value;
const manifest = orElse(GUEST, "config/samples/existing-cluster.yaml");
const registry = orElse(IMAGE_REGISTRY, "docker.io/twinrun");
const { values: flags } = parseArgs({ options: { faults: { type: "string", default: "some" } } });
const readyMsMax = 600_000;
const patienceMs = 120_000;
const narrator = new Narrator();
const shell = new Shell(narrator);

const kubectl = (...args: string[]): string => execFileSync("kubectl", args, { encoding: "utf8" });
const readJson = (...args: string[]): unknown => JSON.parse(kubectl(...args, "--output", "json"));

/** The ProtectedVM of the manifest. */
const { name, namespace = "default" } = present(
  parseAllDocuments(readFileSync(join(root, manifest), "utf8"))
    .map((document) => document.toJS() as KubeObject | null)
    .find((object) => object?.kind === "ProtectedVM"),
  `a ProtectedVM in ${manifest}`,
).metadata;
const place = `--namespace ${namespace}`;

/** What the client saw so far. */
type CountingReport = {
  readonly repliesCount: number;
  /** The first thing that was wrong, after which it asks no more. */
  readonly fault: string | null;
  readonly longestWaitMs: number;
  /** The wait that is going on. */
  readonly waitsMs: number;
};

type Side = "primary" | "standby";
const address = orElse(ADDRESS, "10.77.0.60:7000");
const clientPrefix = orElse(CLIENT, `kubectl exec --stdin ${place} client --`);

type Fault = {
  readonly what: string;
  readonly command: (vm: ProtectedVm) => string;
  /** Whether another side runs the guest afterwards. */
  readonly moves: boolean;
  /** Part of the demo as well. */
  readonly shown?: true;
};

const vmiOf = (vm: ProtectedVm, side: Side): { readonly namespace: string; readonly name: string } =>
  present(vm.status?.[side], `a ${side}`).vmi;
const component = (of: string): string => `--namespace twinrun --selector app.kubernetes.io/component=${of}`;

const faults: readonly Fault[] = [
  {
    what: "a user asks for a switchover",
    moves: true,
    shown: true,
    command: () => `kubectl twinrun switchover ${name} ${place} --wait`,
  },
  {
    what: "the pod that runs the guest is deleted by force",
    moves: true,
    shown: true,
    command: (vm) => {
      const vmi = vmiOf(vm, "primary");
      const { metadata } = readJson("get", "vmi", vmi.name, "--namespace", vmi.namespace) as KubeObject;
      const selector = `kubevirt.io/created-by=${metadata.uid ?? ""}`;
      return `kubectl delete pod --namespace ${vmi.namespace} --selector ${selector} --force --grace-period 0`;
    },
  },
  {
    what: "the standby's VirtualMachineInstance is deleted by hand",
    moves: false,
    command: (vm) => `kubectl delete vmi --namespace ${vmiOf(vm, "standby").namespace} ${vmiOf(vm, "standby").name}`,
  },
  {
    what: "the primary's VirtualMachineInstance is deleted by hand",
    moves: true,
    command: (vm) => `kubectl delete vmi --namespace ${vmiOf(vm, "primary").namespace} ${vmiOf(vm, "primary").name}`,
  },
  {
    what: "a user asks for a failover",
    moves: true,
    command: () => `kubectl twinrun failover ${name} ${place} --yes --wait`,
  },
  {
    what: "both operators are deleted",
    moves: false,
    command: () => `kubectl delete pod ${component("operator")} --grace-period 0 --force`,
  },
  {
    what: "all replicas of the quorum service are deleted",
    moves: false,
    command: () => `kubectl delete pod ${component("quorum")} --grace-period 0 --force`,
  },
];

/** kubectl finds it as a plugin. */
async function linkPlugin(): Promise<void> {
  await shell.show('mkdir -p build/bin && ln -sf "$PWD/src/main/kubectl-twinrun.sh" build/bin/kubectl-twinrun');
  narrator.say("$ export PATH=$PWD/build/bin:$PATH");
  process.env["PATH"] = `${join(root, "build/bin")}:${process.env["PATH"] ?? ""}`;
}

async function installTwinrun(): Promise<void> {
  narrator.announce("Twinrun on the cluster of KUBECONFIG");
  await linkPlugin();
  await shell.show("kubectl get kubevirts --all-namespaces");
  const releases = execFileSync("helm", ["list", "--all-namespaces", "--short", "--filter", "^twinrun$"]).toString();
  if (releases.trim() !== "") {
    narrator.say("it is installed already");
    return;
  }
  const images = `image.repository=${registry}/twinrun,hook.image.repository=${registry}/twinrun-hook`;
  const wait = `--wait --timeout 10m --set ${images} ${HELM_ARGS ?? ""}`.trim();
  await shell.show(`helm install twinrun charts/twinrun --namespace twinrun --create-namespace ${wait}`);
}

/** The client's program needs nothing but Node, and is given as an argument: it may be started in a pod. */
class CountingClient {
  readonly #child: ChildProcess;
  #latest: CountingReport = { repliesCount: 0, fault: null, longestWaitMs: 0, waitsMs: 0 };

  constructor() {
    const [host = "", port = ""] = address.split(":");
    const code = stripTypeScriptTypes(readFileSync(join(import.meta.dirname, "../counting-client.ts"), "utf8"));
    const command = [
      ...clientPrefix.split(/\s+/),
      "node",
      "--input-type=module",
      "--eval",
      code,
      "counting",
      host,
      port,
    ];
    let text = "";
    this.#child = spawn(command[0] ?? "", command.slice(1), { stdio: ["pipe", "pipe", "inherit"] });
    this.#child.stdout?.setEncoding("utf8").on("data", (part: string) => {
      const lines = `${text}${part}`.split("\n");
      text = lines.pop() ?? "";
      const last = lines.at(-1);
      this.#latest = last === undefined ? this.#latest : (JSON.parse(last) as CountingReport);
    });
    this.#child.on("exit", () => (this.#latest = { ...this.#latest, fault: this.#latest.fault ?? "the client ended" }));
  }

  get report(): CountingReport {
    return this.#latest;
  }

  /** Resolves when it got so many more replies; a failure says what it saw instead. */
  async waitForReplies(count: number): Promise<void> {
    const wanted = this.#latest.repliesCount + count;
    while (this.#latest.repliesCount < wanted) {
      const { fault, waitsMs } = this.#latest;
      if (fault !== null || waitsMs > patienceMs) {
        throw new Error(`the client: ${fault ?? `no reply for ${waitsMs} ms`}`);
      }
      await sleep(100);
    }
  }

  stop(): void {
    this.#child.removeAllListeners("exit");
    this.#child.stdin?.end();
  }
}

const readVm = (): ProtectedVm => readJson("get", "protectedvm", name, "--namespace", namespace) as ProtectedVm;

/** Ready, in this term of the pair or a later one. */
async function waitUntilReady(term = 0): Promise<ProtectedVm> {
  const deadlineMs = Date.now() + readyMsMax;
  for (;;) {
    const vm = readVm();
    const isReady = vm.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") === true;
    if (isReady && (vm.status?.term ?? 0) >= term) {
      return vm;
    }
    if (Date.now() > deadlineMs) {
      throw new Error(`not protected after ${readyMsMax / 1000} s: kubectl twinrun describe ${name} ${place}`);
    }
    await sleep(500);
  }
}

/** A guest that boots for the first time takes its time. */
async function connectClient(): Promise<CountingClient> {
  const deadlineMs = Date.now() + readyMsMax;
  narrator.say(`a client of ${address} is started by: ${clientPrefix} node ...`);
  for (;;) {
    const client = new CountingClient();
    try {
      await client.waitForReplies(20);
      return client;
    } catch (cause) {
      client.stop();
      if (Date.now() > deadlineMs) {
        throw cause;
      }
      await sleep(5_000);
    }
  }
}

async function tell(): Promise<boolean> {
  await installTwinrun();
  narrator.announce("A guest is asked for");
  const startedAtMs = Date.now();
  await shell.show(`sed s,docker.io/twinrun/,${registry}/, ${manifest} | kubectl apply --filename -`);
  await waitUntilReady();
  const readyMs = Date.now() - startedAtMs;
  await shell.show(`kubectl twinrun status ${place}`);
  const client = await connectClient();
  const done = faults.filter(({ shown }) => flags.faults === "all" || shown === true);
  try {
    for (const { what, command, moves } of done) {
      const before = await waitUntilReady();
      narrator.announce(what);
      await shell.show(command(before));
      // What is said right after a fault is what was before it.
      await sleep(3_000);
      await waitUntilReady((before.status?.term ?? 0) + Number(moves));
      await shell.show(`kubectl twinrun status ${place}`);
      await client.waitForReplies(50);
    }
  } finally {
    client.stop();
    const { repliesCount, fault, longestWaitMs } = client.report;
    narrator.table("What the client saw", [
      ["replies over one connection, each checked", String(repliesCount)],
      ["faults done to the guest", String(done.length)],
      ["anything wrong", fault ?? "nothing"],
      ["longest wait for a reply", `${longestWaitMs} ms`],
      ["apply to protected", `${(readyMs / 1000).toFixed(1)} s`],
    ]);
  }
  return client.report.fault === null;
}

let isFine = false;
try {
  isFine = await tell();
} catch (cause) {
  narrator.warn(`the demo stopped: ${cause instanceof Error ? cause.message : String(cause)}`);
}
await shell.show(`kubectl delete protectedvm ${name} ${place} --ignore-not-found`);
narrator.say(isFine ? "it went well" : "it FAILED");
process.exitCode = isFine ? 0 : 1;
