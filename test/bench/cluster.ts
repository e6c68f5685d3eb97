/**
 * What a user of the cluster gets: how long it takes from `kubectl apply` to Ready, what protection of an idle guest costs there,
 * how long a client waits when a node loses power, with the API server and without it, and when its guest is handed over, and how
 * long a guest of HighAvailability takes to start anew.
 *
 * On the lab's three nodes, Twinrun installed by its chart with etcd. KubeVirt is the lab's stand-in: its controllers and
 * virt-handler's part run in this process, its launchers in their pods.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type GuestPair } from "../../src/api/guest-pair.ts";
import { type ProtectedVm } from "../../src/api/protected-vm.ts";
import { GUEST_LABEL } from "../../src/api/vmi-contract.ts";
import { kindOf, type KubeObject, type ResourceKind } from "../../src/kube/kube-object.ts";
import { Reflector } from "../../src/kube/reflector.ts";
import { assert, present } from "../../src/lib/assert.ts";
import { type Json } from "../../src/lib/json-merge.ts";
import { buildProtectedGuest, type GuestWish } from "../e2e/guest-manifests.ts";
import { isReady, type Platform, startPlatform, systemNamespace, tenantNamespace } from "../e2e/platform.ts";
import { type Client, startClient } from "../lab/clients/client-process.ts";
import { round } from "../lab/clients/figures.ts";
import { findRemedy } from "../lab/kubernetes/programs.ts";
import { type Bench } from "./bench.ts";
import { measureBoots } from "./boots.ts";
import { readTakeovers } from "./cluster-takeovers.ts";
import { readClusterProcessor } from "./cluster-processor.ts";
import { type Figure, quantilesOf } from "./row.ts";
import { type Interval, longestWaitIn, readClientSamples, type TimedSample } from "./samples.ts";

const guests = ["one", "two", "three"] as const;
const nodes = ["node-a", "node-b"] as const;
const idleSeconds = 40;
const failovers = { withApiServer: 5, without: 3 };
const switchoversCount = 10;
const targets = { percent: 5, failoverMs: 1_000, gapMs: 250 };
const patienceMs = 300_000;
const unprotected = "plain";
const connectionsCount = 4;

const kinds = {
  vm: kindOf("twinrun.dev/v1alpha1", "ProtectedVM"),
  pair: kindOf("twinrun.dev/v1alpha1", "GuestPair"),
  vmi: kindOf("kubevirt.io/v1", "VirtualMachineInstance"),
  dataVolume: kindOf("cdi.kubevirt.io/v1beta1", "DataVolume"),
  pod: kindOf("v1", "Pod"),
};

/** Nothing where there is no Kubernetes: that takes ten minutes to build and is not part of what every machine has. */
export async function measureCluster(bench: Bench): Promise<Figure[]> {
  const programs = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"] as const;
  const remedy = findRemedy([...programs, "kube-proxy", "helm"]);
  if (remedy !== undefined) {
    bench.say(`left out: ${remedy}`);
    return [];
  }
  const platform = await startPlatform({ store: "etcd", kinds: ["busybox"], say: bench.say });
  try {
    await sleep(bench.durationMs(10)); // Programs that have just started have work of their own.
    const before = await withoutGuests(bench, platform);
    const applied = [await measureApply(bench, platform, guests[0])];
    const lossesOfOne = await measureFailovers(bench, platform, guests.slice(0, 1));
    for (const guest of guests.slice(1)) {
      applied.push(await measureApply(bench, platform, guest));
    }
    const idle = await measureIdle(bench, platform, before);
    bench.say(`  idle, per guest: ${JSON.stringify(idle.row.detail?.["perGuest"])}`);
    const gaps = await measureSwitchovers(bench, platform);
    const losses = await measureFailovers(bench, platform, guests);
    await removeGuests(platform);
    return [summarizeApply(applied), idle, gaps, ...lossesOfOne, ...losses, await measureBoots(bench, platform)];
  } finally {
    await platform.stop();
  }
}

async function removeGuests(platform: Platform): Promise<void> {
  for (const guest of guests) {
    await platform.cluster.remove({ kind: kinds.vm, namespace: tenantNamespace, name: guest });
  }
  for (const guest of guests) {
    while ((await platform.readProtectedVm(guest)) !== undefined) {
      await sleep(200);
    }
  }
}

const addressOf = (guest: string): string => `10.77.0.${60 + [...guests, unprotected].indexOf(guest)}`;

const wishFor = (guest: string): GuestWish => ({
  name: guest,
  kind: "busybox",
  address: addressOf(guest),
  placement: { nodes },
});

const phaseNames = ["seen", "instances", "pods", "engines", "copying", "inSync", "ready"] as const;
type Phase = (typeof phaseNames)[number];
type Phases = Readonly<Record<Phase, number>>;

/** When each phase had been reached, in milliseconds after the command was given. */
async function measureApply(bench: Bench, platform: Platform, guest: string): Promise<Phases> {
  const reached = new Map<Phase, number>();
  const watch = await watchPhases(platform, guest, (phase) => {
    reached.set(phase, reached.get(phase) ?? Math.round(performance.now() - fromMs));
  });
  const fromMs = performance.now();
  await platform.apply(buildProtectedGuest(wishFor(guest)));
  const deadlineMs = fromMs + patienceMs;
  while (!reached.has("ready")) {
    assert(performance.now() < deadlineMs, `${guest} is not Ready: ${JSON.stringify([...reached])}`);
    await sleep(20);
  }
  await watch.stop();
  bench.say(`  ${guest}: ${[...reached].map(([phase, ms]) => `${phase} ${ms}`).join(", ")}`);
  // A copy can be over before anybody wrote that it goes on.
  return Object.fromEntries(phaseNames.map((name) => [name, reached.get(name) ?? reached.get("inSync")])) as Phases;
}

type Pod = KubeObject & { readonly status?: { readonly phase?: string; readonly conditions?: readonly Condition[] } };
type Condition = { readonly type: string; readonly status: string };
type Side = NonNullable<NonNullable<GuestPair["status"]>["sides"]>[number];

async function watchPhases(
  platform: Platform,
  guest: string,
  tell: (phase: Phase) => void,
): Promise<{ stop(): Promise<void> }> {
  const { cluster } = platform;
  const vms = new Reflector<KubeObject & ProtectedVm>({ cluster, kind: kinds.vm });
  const pairs = new Reflector<KubeObject & GuestPair>({ cluster, kind: kinds.pair });
  const instances = new Reflector({ cluster, kind: kinds.vmi });
  const pods = new Reflector<Pod>({ cluster, kind: kinds.pod, scope: { labelSelector: "kubevirt.io=virt-launcher" } });
  const all = [vms, pairs, instances, pods];
  all.forEach((each) => {
    each.start();
  });
  await Promise.all(all.map((each) => each.synced()));
  const earlier = new Set(pods.keys());
  vms.onChange(({ after }) => {
    if (after?.metadata.name === guest && after.status !== undefined) {
      tell("seen");
      if (isReady(after)) {
        tell("ready");
      }
    }
  });
  instances.onChange(() => {
    const made = instances.list().filter(({ metadata }) => isOf(metadata.labels?.[GUEST_LABEL], guest));
    if (made.length === 2) {
      tell("instances");
    }
  });
  pods.onChange(() => {
    const fresh = pods.keys().filter((key) => !earlier.has(key));
    if (fresh.filter((key) => pods.get(key)?.status?.phase === "Running").length === 2) {
      tell("pods");
    }
  });
  pairs.onChange(({ after }) => {
    if (isOf(after?.metadata.name, guest)) {
      listPairPhases(after?.status?.sides ?? []).forEach(tell);
    }
  });
  return {
    stop: async () => {
      await Promise.all(all.map((each) => each.stop()));
    },
  };
}

/** A guest's name is that of its ProtectedVM and some digits. */
const isOf = (name: string | undefined, guest: string): boolean => name?.startsWith(`${guest}-`) === true;

function listPairPhases(sides: readonly Side[]): readonly Phase[] {
  const primary = sides.find(({ role }) => role === "primary");
  const inSync = primary?.conditions.find(({ type }) => type === "InSync");
  // An engine has a role before it has its QEMU, whose memory is followed from then on.
  const isServed = sides.every(({ wantedShape }) => wantedShape === undefined) && primary?.tracker !== "none";
  const attached = isServed && primary !== undefined && sides.some(({ role }) => role === "standby");
  return [
    ...(attached ? (["engines"] as const) : []),
    ...(inSync?.reason === "Synchronising" ? (["copying"] as const) : []),
    ...(inSync?.status === "True" ? (["inSync"] as const) : []),
  ];
}

function summarizeApply(applied: readonly Phases[]): Figure {
  const { p50, max } = quantilesOf(applied.map(({ ready }) => ready));
  const medians = phaseNames.map((name) => [name, quantilesOf(applied.map((phases) => phases[name])).p50]);
  return {
    row: {
      name: "cluster: from kubectl apply to Ready, busybox guest",
      unit: "ms",
      p50,
      max,
      target: "none, phase by phase",
      met: true,
      detail: { reachedAfterMs: Object.fromEntries(medians) as Record<string, number> },
    },
    samples: { applied },
  };
}

type Usage = Readonly<Record<string, number>>;

/** Percent of a core by whom, over `seconds`. */
async function measureUsage(platform: Platform, ms: number): Promise<Usage> {
  const { items } = await platform.cluster.list(kinds.pod);
  const before = readClusterProcessor(items);
  const fromMs = performance.now();
  await sleep(ms);
  const after = readClusterProcessor(items);
  const passedMs = performance.now() - fromMs;
  return Object.fromEntries(
    Object.entries(after).map(([name, usedMs]) => [name, round((100 * (usedMs - (before[name] ?? 0))) / passedMs)]),
  );
}

const withoutGuests = (bench: Bench, platform: Platform): Promise<Usage> =>
  measureUsage(platform, bench.durationMs(idleSeconds / 2));

/** Beside the same guest without protection, which is idle at the same time. */
async function measureIdle(bench: Bench, platform: Platform, before: Usage): Promise<Figure> {
  await startUnprotected(platform);
  await sleep(bench.durationMs(15));
  const used = await measureUsage(platform, bench.durationMs(idleSeconds));
  await platform.cluster.remove({ kind: kinds.vmi, namespace: tenantNamespace, name: unprotected });
  // What they cost more than without any guest: so much each guest adds.
  const added = (name: string): number => round(((used[name] ?? 0) - (before[name] ?? 0)) / guests.length);
  const ofTwinrun = ["engine", "agent", "operator", "quorum", "etcd"] as const;
  const ofKubevirt = ["launcher", "kubevirt"] as const;
  const share = (names: readonly string[]): Usage => Object.fromEntries(names.map((name) => [name, added(name)]));
  const total = round([...ofTwinrun, ...ofKubevirt].reduce((sum, name) => sum + added(name), 0));
  const detail = {
    perGuest: { ...share(ofTwinrun), ...share(ofKubevirt) },
    // What checkpoints make QEMU itself do is in here, beside what the guest does.
    qemu: { primary: added("qemu"), standby: added("standby qemu"), unprotected: used["plain qemu"] ?? 0 },
    launcherOfUnprotected: used["plain launcher"] ?? 0,
    ...{ guests: guests.length, before, used },
  };
  return {
    row: {
      name: "cluster: what a protected idle guest adds to Twinrun's and KubeVirt's processor time",
      unit: "% of a core",
      p50: total,
      unprotected: used["plain launcher"] ?? 0,
      target: `≤ ${targets.percent}`,
      met: total <= targets.percent,
      detail,
    },
    samples: detail,
  };
}

/** The same guest as a plain VirtualMachineInstance; resolves when it answers. */
async function startUnprotected(platform: Platform): Promise<void> {
  const { spec } = buildProtectedGuest(wishFor(unprotected)) as KubeObject & { readonly spec: Json };
  type Template = {
    readonly dataVolumeTemplates: readonly { readonly metadata: { readonly name: string }; readonly spec: Json }[];
    readonly template: { readonly spec: Json };
  };
  const { dataVolumeTemplates, template } = (spec["virtualMachineTemplate"] as { readonly spec: Template }).spec;
  for (const volume of dataVolumeTemplates) {
    const storage = { ...(volume.spec["storage"] as Json), storageClassName: "lab-local" };
    await apply(platform, kinds.dataVolume, volume.metadata.name, { ...volume.spec, storage });
  }
  const nodeSelector = { "kubernetes.io/hostname": nodes[0] };
  await apply(platform, kinds.vmi, unprotected, { ...template.spec, nodeSelector });
  const client = startClient(platform.lab, "counted", { host: addressOf(unprotected), connectTimeoutMs: patienceMs });
  while (client.progress.repliesCount < 10) {
    await sleep(100);
  }
  await client.stop();
}

async function apply(platform: Platform, { apiVersion, kind }: ResourceKind, name: string, spec: Json): Promise<void> {
  await platform.apply({ apiVersion, kind, metadata: { name, namespace: tenantNamespace }, spec } as KubeObject);
}

/** A user asks for it, one guest after the other. The gap is the longest that any of a client's connections waits for a reply. */
async function measureSwitchovers(bench: Bench, platform: Platform): Promise<Figure> {
  const directory = mkdtempSync(join(tmpdir(), "twinrun-bench-"));
  const watched = guests.map((guest) => watch(platform, guest, directory));
  const spans: (Interval & { readonly guest: string })[] = [];
  for (let time = 0; time < bench.count(switchoversCount); time += 1) {
    const guest = guests[time % guests.length] ?? guests[0];
    const { status } = await platform.waitUntilReady(guest, patienceMs);
    await sleep(bench.durationMs(2));
    const fromMs = performance.timeOrigin + performance.now();
    await switchOver(platform, guest, present(status?.standby?.node, "a standby"));
    spans.push({ guest, fromMs, toMs: performance.timeOrigin + performance.now() });
  }
  await sleep(1_000);
  const results = await Promise.all(watched.map(({ client }) => client.stop()));
  const faults = results.flatMap((result) => result.faults);
  assert(faults.length === 0, `clients saw faults: ${JSON.stringify(faults)}`);
  const samples = new Map(watched.map(({ guest, samplesPath }) => [guest, readClientSamples(samplesPath)]));
  rmSync(directory, { recursive: true });
  const gaps = spans.map((span) => longestWaitIn(samples.get(span.guest) ?? [], span));
  bench.say(`  switchovers: ${gaps.join(", ")} ms`);
  const { count, ...figures } = quantilesOf(gaps);
  return {
    row: {
      name: "cluster: switchover, the longest wait of a client",
      unit: "ms",
      ...figures,
      target: `p99 ≤ ${targets.gapMs}`,
      met: figures.p99 <= targets.gapMs,
      detail: { switchoversCount: count, gaps },
    },
    samples: { spans, gaps },
  };
}

function watch(platform: Platform, guest: string, directory: string): Watched {
  const samplesPath = join(directory, `${guest}.samples`);
  const options = { host: addressOf(guest), connectionsCount, thinkMs: 20, stallMs: 60_000, samplesPath };
  return { guest, samplesPath, client: startClient(platform.lab, "counted", options) };
}

/** Resolves when the other side runs it. */
async function switchOver(platform: Platform, guest: string, node: string): Promise<void> {
  const ref = { kind: kinds.vm, namespace: tenantNamespace, name: guest };
  await platform.cluster.patch(ref, { metadata: { annotations: { "twinrun.dev/switchover-to": node } } });
  await platform.waitForProtectedVm(guest, (vm) => vm.status?.primary?.node === node);
}

type Watched = { readonly guest: string; readonly client: Client; readonly samplesPath: string };
/** `takeoversMs`: from the strike until each guest ran on the other node. */
type Strike = { readonly atMs: number; readonly takeoversMs: readonly number[]; readonly hadApiServer: boolean };

/** Of the guests that there are, all on the node that loses power, each with a client of four connections. */
async function measureFailovers(bench: Bench, platform: Platform, names: readonly string[]): Promise<Figure[]> {
  const directory = mkdtempSync(join(tmpdir(), "twinrun-bench-"));
  const watched = names.map((guest) => watch(platform, guest, directory));
  while (watched.some(({ client }) => client.progress.repliesCount === 0)) {
    await sleep(100); // A guest that is protected may still boot.
  }
  const strikes: Strike[] = [];
  const count = { with: bench.count(failovers.withApiServer), without: bench.count(failovers.without) };
  for (let time = 0; time < count.with + count.without; time += 1) {
    strikes.push(await strikeOnce(bench, platform, watched, time < count.with));
  }
  const results = await Promise.all(watched.map(({ client }) => client.stop()));
  const faults = results.flatMap((result) => result.faults);
  assert(faults.length === 0, `clients saw faults: ${JSON.stringify(faults)}`);
  const waits = watched.map(({ samplesPath }) => {
    const samples = readClientSamples(samplesPath);
    return strikes.map(({ atMs }) => longestWait(samples, atMs));
  });
  rmSync(directory, { recursive: true });
  const repliesCount = results.reduce((sum, result) => sum + result.repliesCount, 0);
  const name = `cluster: failover of ${names.length === 1 ? "one guest" : `${names.length} guests at once`}, from power off`;
  return [true, false].flatMap((had) => {
    const ran = strikes.flatMap(({ takeoversMs, hadApiServer }) => (hadApiServer === had ? takeoversMs : []));
    const replied = waits.flatMap((each) => each.filter((_, index) => strikes[index]?.hadApiServer === had));
    const how = had ? "" : ", API server stopped";
    return [
      summarizeFailovers(`${name} until the guest runs${how}`, ran, repliesCount),
      summarizeFailovers(`${name} to the last first reply${how}`, replied, repliesCount),
    ];
  });
}

/** From the strike until the last of a client's connections has a reply of the other side; each asks within its think time. */
function longestWait(samples: readonly TimedSample[], strikeMs: number): number {
  const waits = samples
    .filter(({ atMs, value }) => atMs <= strikeMs + 100 && atMs + value > strikeMs)
    .map(({ atMs, value }) => atMs + value - strikeMs);
  assert(waits.length >= connectionsCount, `each connection asked something when power went: ${JSON.stringify(waits)}`);
  return Math.round(Math.max(...waits));
}

function summarizeFailovers(name: string, waits: readonly number[], repliesCount: number): Figure {
  const { count, ...figures } = quantilesOf(waits);
  return {
    row: {
      name,
      unit: "ms",
      ...figures,
      target: `p99 ≤ ${targets.failoverMs}`,
      met: figures.p99 <= targets.failoverMs,
      detail: { failoversCount: count, waits, repliesChecked: repliesCount },
    },
    samples: { waits },
  };
}

/** Takes the power from the node that runs all guests and gives it back. */
async function strikeOnce(
  bench: Bench,
  platform: Platform,
  watched: readonly Watched[],
  hasApiServer: boolean,
): Promise<Strike> {
  const victim = await waitForOneNode(
    platform,
    watched.map(({ guest }) => guest),
  );
  await sleep(bench.durationMs(3));
  if (!hasApiServer) {
    await platform.lab.stopApiServer();
    await sleep(1_000);
  }
  const repliesBefore = watched.map(({ client }) => client.progress.repliesCount);
  const atMs = performance.timeOrigin + performance.now();
  await platform.lab.powerOff(victim);
  // Progress is told once a second: replies of both sides of the strike are in the first word.
  while (watched.some(({ client }, index) => client.progress.repliesCount < (repliesBefore[index] ?? 0) + 60)) {
    await sleep(50);
  }
  await sleep(1_000);
  if (!hasApiServer) {
    await platform.lab.startApiServer();
  }
  bench.say(`  ${victim} lost power${hasApiServer ? "" : " while there was no API server"}`);
  const survivor = present(
    nodes.find((node) => node !== victim),
    "the other node",
  );
  const takeoversMs = await readTakeovers(platform, survivor, atMs);
  assert(takeoversMs.length === watched.length, `every guest was taken over: ${JSON.stringify(takeoversMs)}`);
  await platform.lab.powerOn(victim);
  await waitForPods(platform, victim, atMs);
  return { atMs, takeoversMs, hadApiServer: hasApiServer };
}

/** Until all these guests are protected, on the same node, which is returned. One that is elsewhere is asked over. */
async function waitForOneNode(platform: Platform, names: readonly string[]): Promise<string> {
  const vms = [];
  for (const guest of names) {
    vms.push(await platform.waitUntilReady(guest, patienceMs));
  }
  const node = present(vms[0]?.status?.primary?.node, "a primary");
  for (const { metadata, status } of vms) {
    if (status?.primary?.node !== node) {
      await switchOver(platform, metadata.name, node);
      await platform.waitUntilReady(metadata.name, patienceMs);
    }
  }
  return node;
}

/** Everything of Twinrun on this node was started anew and is Ready, members of etcd before all: else the next strike takes two. */
async function waitForPods(platform: Platform, node: string, sinceMs: number): Promise<void> {
  const isFresh = ({ status }: Pod): boolean =>
    status?.conditions?.some(
      (condition) =>
        condition.type === "Ready" &&
        condition.status === "True" &&
        Date.parse((condition as Condition & { lastTransitionTime: string }).lastTransitionTime) > sinceMs,
    ) === true;
  const deadlineMs = Date.now() + patienceMs;
  for (;;) {
    const scope = { namespace: systemNamespace, fieldSelector: `spec.nodeName=${node}` };
    const { items } = await platform.cluster.list<Pod>(kinds.pod, scope);
    if (items.length > 1 && items.filter(({ status }) => status?.phase === "Running").every(isFresh)) {
      return;
    }
    assert(
      Date.now() < deadlineMs,
      `pods of ${node} are not ready: ${JSON.stringify(items.map(({ status }) => status))}`,
    );
    await sleep(500);
  }
}
