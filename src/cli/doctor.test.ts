/** Every check of doctor: from a cluster in which all is well, one difference each. */
import { describe, expect, test } from "@jest/globals";
import {
  buildClusterFacts,
  buildGuestFacts,
  buildNode,
  buildObject,
  buildPod,
  buildWorkload,
  calmKubeVirt,
  calmWorkloads,
} from "../../test/build/doctor-facts.ts";
import { buildReport } from "../../test/build/engine-report.ts";
import { buildReportedSide } from "../../test/build/guest-pair-rows.ts";
import { buildPairOn } from "../../test/build/pairs-on.ts";
import { buildSeenFault } from "../../test/build/resources.ts";
import { buildShownVm, calmConditions, condition, nowMs } from "../../test/build/shown-vms.ts";
import { checkCluster } from "./cluster-checks.ts";
import { type ClusterFacts, type GuestFacts } from "./facts.ts";
import { type Finding, hasFailure } from "./findings.ts";
import { checkGuest } from "./guest-checks.ts";
import { known, type Json, type Vmi } from "./kube-objects.ts";
import { checkNodes } from "./node-checks.ts";

const calm = (level: Finding["level"]): boolean => level === "ok" || level === "note";
const wrongOf = (findings: readonly Finding[]): readonly Finding[] => findings.filter(({ level }) => !calm(level));

test("where all is well there is nothing to look at", () => {
  const groups = [
    checkCluster(buildClusterFacts()),
    ...checkNodes(buildClusterFacts()),
    checkGuest(buildClusterFacts(), buildGuestFacts()),
  ];
  expect(groups.flatMap(({ findings }) => wrongOf(findings))).toEqual([]);
  expect(hasFailure(groups)).toBe(false);
});

type Wrong = {
  readonly when: string;
  readonly level: Finding["level"];
  readonly check: string;
  readonly says: RegExp;
  readonly remedy?: RegExp;
};

function expectFinding(findings: readonly Finding[], { level, check, says, remedy }: Wrong): void {
  const wrong = wrongOf(findings);
  expect(wrong.map((finding) => `${finding.level} ${finding.check}`)).toEqual([`${level} ${check}`]);
  expect(wrong[0]?.message).toMatch(says);
  expect(wrong[0]?.remedy ?? "").toMatch(remedy ?? /(?:)/);
}

const kubevirt = (configuration: Json, version = "v1.9.0"): Partial<ClusterFacts> => ({
  kubevirts: known([
    { ...calmKubeVirt, spec: { configuration }, status: { observedKubeVirtVersion: version, phase: "Deployed" } },
  ]),
});
const gates = { developerConfiguration: { featureGates: ["Sidecar"] } };
const profile = (customProfile: Json): Json => ({
  ...{ ...gates, seccompConfiguration: { virtualMachineInstanceProfile: { customProfile } } },
});
const without = (component: string): Partial<ClusterFacts> => ({
  workloads: known(
    calmWorkloads.filter(({ metadata }) => metadata.labels?.["app.kubernetes.io/component"] !== component),
  ),
});
const instead = (component: string, difference: Parameters<typeof buildWorkload>[1]): Partial<ClusterFacts> => ({
  workloads: known(
    calmWorkloads.map((each) =>
      each.metadata.labels?.["app.kubernetes.io/component"] === component ? buildWorkload(component, difference) : each,
    ),
  ),
});
const certificate = (fromDays: number, untilDays: number): Partial<ClusterFacts> => ({
  certificates: known([
    {
      name: "twinrun-ca/ca.crt",
      validFromMs: nowMs + fromDays * 86_400_000,
      validUntilMs: nowMs + untilDays * 86_400_000,
    },
  ]),
});
const quorumArgs = ["--store=etcd:https://etcd-0:2379"];

describe("of the cluster", () => {
  test.each<Wrong & { readonly facts: Partial<ClusterFacts> }>([
    {
      when: "an old Kubernetes",
      facts: { kubernetesVersion: known("v1.31.2") },
      level: "failure",
      check: "Kubernetes",
      says: /v1[.]31[.]2/,
      remedy: /1[.]32/,
    },
    {
      when: "no definitions",
      facts: { resources: known(new Set(["protectedvms.twinrun.dev"])) },
      level: "failure",
      check: "CustomResources",
      says: /guestpairs/,
      remedy: /helm/,
    },
    {
      when: "no KubeVirt",
      facts: { kubevirts: { tag: "absent" } },
      level: "failure",
      check: "KubeVirt",
      says: /no KubeVirt/,
      remedy: /install/,
    },
    {
      when: "an old KubeVirt",
      facts: kubevirt(gates, "v1.3.1"),
      level: "failure",
      check: "KubeVirt",
      says: /v1[.]3[.]1/,
      remedy: /upgrade/,
    },
    {
      when: "no gate",
      facts: kubevirt({ developerConfiguration: { featureGates: ["HostDisk"] } }),
      level: "failure",
      check: "HookAdmission",
      says: /Sidecar is off/,
      remedy: /"featureGates":\["HostDisk","Sidecar"\]/,
    },
    {
      when: "a gate that is disabled",
      facts: kubevirt({ developerConfiguration: { featureGates: ["Sidecar"], disabledFeatureGates: ["Sidecar"] } }),
      level: "failure",
      check: "HookAdmission",
      says: /off/,
    },
    {
      when: "no binding where one is wanted",
      facts: instead("operator", { args: ["--hook-mode=NetworkBinding"] }),
      level: "failure",
      check: "HookAdmission",
      says: /no network binding/,
      remedy: /helm get notes/,
    },
    {
      when: "RuntimeDefault",
      facts: kubevirt(profile({ runtimeDefaultProfile: true })),
      level: "warning",
      check: "Seccomp",
      says: /userfaultfd/,
      remedy: /kubevirt[/]kubevirt[.]json/,
    },
    {
      when: "a profile nobody knows",
      facts: kubevirt(profile({ localhostProfile: "own.json" })),
      level: "warning",
      check: "Seccomp",
      says: /own[.]json/,
    },
    {
      when: "nothing of Twinrun",
      facts: { workloads: known([]) },
      level: "failure",
      check: "Installation",
      says: /namespace twinrun/,
      remedy: /--system-namespace/,
    },
    {
      when: "an operator that is down",
      facts: instead("operator", { status: {} }),
      level: "failure",
      check: "Operator",
      says: /no operator is ready/,
      remedy: /kubectl get pods -n twinrun/,
    },
    {
      when: "one operator",
      facts: instead("operator", { status: { readyReplicas: 1 } }),
      level: "warning",
      check: "Operator",
      says: /one replica/,
    },
    {
      when: "no quorum",
      facts: instead("quorum", { args: quorumArgs, status: {} }),
      level: "failure",
      check: "Quorum",
      says: /no failover/,
    },
    {
      when: "leases",
      facts: instead("quorum", { args: ["--store", "lease:twinrun"] }),
      level: "warning",
      check: "QuorumStore",
      says: /waits while the API server is away/,
      remedy: /etcd/,
    },
    {
      when: "a store that cannot be told",
      facts: instead("quorum", {}),
      level: "unknown",
      check: "QuorumStore",
      says: /no flag/,
    },
    {
      when: "etcd without a majority",
      facts: instead("etcd", { kind: "StatefulSet", status: { readyReplicas: 1 } }),
      level: "failure",
      check: "QuorumStore",
      says: /1 of 3/,
    },
    {
      when: "etcd with one member away",
      facts: instead("etcd", { kind: "StatefulSet", status: { readyReplicas: 2 } }),
      level: "warning",
      check: "QuorumStore",
      says: /2 of 3/,
    },
    {
      when: "a node without agent",
      facts: instead("agent", { kind: "DaemonSet", status: { numberReady: 2, desiredNumberScheduled: 3 } }),
      level: "warning",
      check: "Agents",
      says: /2 of 3/,
    },
    {
      when: "no agents",
      facts: instead("agent", { kind: "DaemonSet", status: {} }),
      level: "failure",
      check: "Agents",
      says: /no agent/,
    },
    {
      when: "an upgrade under way",
      facts: instead("agent", {
        kind: "DaemonSet",
        metadata: {
          name: "a",
          labels: { "app.kubernetes.io/component": "agent", "app.kubernetes.io/version": "0.2.0" },
        },
      }),
      level: "warning",
      check: "Versions",
      says: /0[.]1[.]0 and 0[.]2[.]0/,
    },
    {
      when: "one node",
      facts: { nodes: known([buildNode("node-a")]) },
      level: "failure",
      check: "FitNodes",
      says: /1 of 1 nodes/,
    },
    {
      when: "nodes that may not be read",
      facts: { nodes: { tag: "unknown", why: "forbidden" } },
      level: "unknown",
      check: "FitNodes",
      says: /forbidden/,
    },
    {
      when: "a certificate that has ended",
      facts: certificate(-365, -1),
      level: "failure",
      check: "Certificates",
      says: /ended 24h ago/,
    },
    {
      when: "a certificate that was not renewed",
      facts: certificate(-350, 15),
      level: "warning",
      check: "Certificates",
      says: /ends in 15d/,
    },
    {
      when: "Secrets that may not be read",
      facts: { certificates: { tag: "unknown", why: "forbidden" } },
      level: "unknown",
      check: "Certificates",
      says: /forbidden/,
    },
    {
      when: "kubemacpool",
      facts: { hasMacPool: known(true) },
      level: "warning",
      check: "MacPool",
      says: /same MAC/,
      remedy: /label namespace twinrun-guests/,
    },
  ])("$when", ({ facts, ...wrong }) => {
    expectFinding(checkCluster(buildClusterFacts(facts)).findings, wrong);
  });

  test("a quorum elsewhere and kubemacpool that is told are no trouble", () => {
    const external = { ...without("quorum"), ...{} };
    const workloads = [...(external.workloads?.tag === "known" ? external.workloads.value : [])].map((each) =>
      each.kind === "DaemonSet"
        ? buildWorkload("agent", { kind: "DaemonSet", args: ["--quorum=192.0.2.9:7000"] })
        : each,
    );
    const namespace = buildObject("Namespace", "twinrun-guests");
    const labelled = {
      ...namespace,
      metadata: { ...namespace.metadata, labels: { "mutatevirtualmachines.kubemacpool.io": "ignore" } },
    };
    const facts = buildClusterFacts({
      workloads: known(workloads),
      hasMacPool: known(true),
      guestsNamespace: known(labelled),
    });
    const wrong = wrongOf(checkCluster(facts).findings);
    expect(wrong.map(({ check }) => check)).toEqual(["QuorumStore"]); // Elsewhere nobody knows.
  });
});

describe("of a node", () => {
  const pods = known([buildPod("agent", "node-a")]);
  test.each<
    Wrong & {
      readonly node: Parameters<typeof buildNode>[1];
      readonly facts?: Partial<ClusterFacts>;
      readonly cordoned?: boolean;
    }
  >([
    {
      when: "it is not Ready",
      node: { ready: "False" },
      level: "warning",
      check: "NodeFit",
      says: /not Ready/,
      remedy: /describe node/,
    },
    {
      when: "it is cordoned",
      node: {},
      cordoned: true,
      level: "warning",
      check: "NodeFit",
      says: /cordoned/,
      remedy: /uncordon/,
    },
    {
      when: "KubeVirt does not use it",
      node: { labels: { "kubevirt.io/schedulable": "false" } },
      level: "warning",
      check: "NodeFit",
      says: /starts no guest/,
    },
    {
      when: "there is no agent",
      node: {},
      facts: { pods: known([]) },
      level: "warning",
      check: "NodeFit",
      says: /no agent/,
    },
    {
      when: "the agent is not Ready",
      node: {},
      facts: { pods: known([buildPod("agent", "node-a", "False")]) },
      level: "warning",
      check: "NodeFit",
      says: /agent on node-a is not Ready/,
      remedy: /kubectl logs -n twinrun/,
    },
    {
      when: "its kernel is old",
      node: { kernel: "5.14.0-570.el9" },
      level: "warning",
      check: "Kernel",
      says: /PAGEMAP_SCAN/,
      remedy: /6[.]7/,
    },
    {
      when: "what its links carry is no number",
      node: { annotations: { "twinrun.dev/replication-mib-per-second": "10G" } },
      level: "warning",
      check: "LinkCapacity",
      says: /"10G", which is no number/,
      remedy: /replication-mib-per-second=1000/,
    },
    {
      when: "its links are not written well",
      node: { annotations: { "twinrun.dev/replication-links": "192.0.2.1" } },
      level: "failure",
      check: "ReplicationLinks",
      says: /NAME=ADDRESS/,
      remedy: /annotate node node-a/,
    },
    {
      when: "KubeVirt names no models",
      node: { labels: { "cpu-model.node.kubevirt.io/Skylake-Client": "false" } },
      level: "warning",
      check: "NodeLabels",
      says: /0 processor models/,
    },
  ])("$when", ({ node, facts = {}, cordoned = false, ...wrong }) => {
    const one = { ...buildNode("node-a", node), spec: { unschedulable: cordoned } };
    const [group] = checkNodes(buildClusterFacts({ nodes: known([one]), pods, ...facts }));
    expectFinding(group?.findings ?? [], wrong);
  });

  test("that KubeVirt does not know is not looked at", () => {
    const plain = { ...buildNode("plain"), metadata: { name: "plain" } };
    expect(checkNodes(buildClusterFacts({ nodes: known([plain]), pods: known([]) }))).toEqual([]);
  });
});

const withSpec = (spec: Json): Partial<GuestFacts> => ({
  virtualMachine: known({
    ...{ apiVersion: "kubevirt.io/v1", kind: "VirtualMachine", metadata: { name: "web" } },
    spec: { runStrategy: "Manual", template: { spec } },
  }),
});
const withVm = (difference: Parameters<typeof buildShownVm>[0]): Partial<GuestFacts> => ({
  vm: buildShownVm(difference),
});
const withCondition = (...parts: Parameters<typeof condition>): Partial<GuestFacts> => ({
  vm: buildShownVm({ conditions: [...calmConditions.filter(({ type }) => type !== parts[0]), condition(...parts)] }),
});
const runningVmi = (
  name: string,
  difference: { readonly namespace?: string; readonly guest?: string; readonly claim?: string } = {},
): Vmi => ({
  ...{ apiVersion: "kubevirt.io/v1", kind: "VirtualMachineInstance" },
  metadata: {
    ...{ name, namespace: difference.namespace ?? "shop" },
    annotations:
      difference.guest === undefined
        ? {}
        : { "twinrun.dev/guest": difference.guest, "kubevirt.io/free-page-reporting-disabled": "true" },
  },
  spec: { volumes: [{ name: "system", persistentVolumeClaim: { claimName: difference.claim ?? name } }] },
  status: { phase: "Running" },
});
const unlike = (label: string): Partial<ClusterFacts> => ({
  nodes: known([buildNode("node-a"), buildNode("node-b", { labels: { [label]: "false" } }), buildNode("node-c")]),
});

describe("of a ProtectedVM", () => {
  test.each<Wrong & { readonly guest?: Partial<GuestFacts>; readonly cluster?: Partial<ClusterFacts> }>([
    {
      when: "stalled",
      guest: withCondition("Stalled", "True", "NodesMissing", "add a node"),
      level: "failure",
      check: "Stalled",
      says: /NodesMissing: add a node/,
    },
    {
      when: "not ready",
      guest: withCondition("Ready", "False", "Synchronising", "copying"),
      level: "warning",
      check: "Ready",
      says: /copying/,
    },
    {
      when: "no quorum",
      guest: withCondition("QuorumReachable", "False", "Unreachable", "no answer"),
      level: "failure",
      check: "QuorumReachable",
      says: /no answer/,
    },
    {
      when: "nobody reports",
      guest: withCondition("LinksHealthy", "Unknown", "NotReported", "no report"),
      level: "unknown",
      check: "LinksHealthy",
      says: /no report/,
    },
    {
      when: "no VM",
      guest: { virtualMachine: { tag: "absent" } },
      level: "failure",
      check: "VirtualMachine",
      says: /no VirtualMachine web/,
      remedy: /spec[.]virtualMachineRef[.]name/,
    },
    {
      when: "a runStrategy that restarts",
      guest: {
        virtualMachine: known({
          apiVersion: "v1",
          kind: "VirtualMachine",
          metadata: { name: "web" },
          spec: { running: true },
        }),
      },
      level: "failure",
      check: "RunStrategy",
      says: /Always/,
      remedy: /patch vm -n shop web/,
    },
    {
      when: "owned by Argo CD",
      guest: {
        virtualMachine: known({
          apiVersion: "v1",
          kind: "VirtualMachine",
          metadata: { name: "web", annotations: { "argocd.argoproj.io/tracking-id": "a" } },
          spec: { runStrategy: "Manual" },
        }),
      },
      level: "warning",
      check: "GitOps",
      says: /Argo CD/,
      remedy: /ignoreDifferences/,
    },
    {
      when: "owned by Flux",
      guest: {
        virtualMachine: known({
          apiVersion: "v1",
          kind: "VirtualMachine",
          metadata: { name: "web", labels: { "kustomize.toolkit.fluxcd.io/name": "a" } },
          spec: { runStrategy: "Manual" },
        }),
      },
      level: "warning",
      check: "GitOps",
      says: /Flux/,
    },
    {
      when: "a device of the host",
      guest: withSpec({ domain: { devices: { gpus: [{ name: "a" }] } } }),
      level: "failure",
      check: "GuestSpec",
      says: /spec[.]template[.]spec[.]domain[.]devices[.]gpus of the VM/,
    },
    {
      when: "the pod network",
      guest: withSpec({
        domain: { devices: { interfaces: [{ name: "default", masquerade: {} }] } },
        networks: [{ name: "default", pod: {} }],
      }),
      level: "warning",
      check: "GuestSpec",
      says: /connections to it end/,
      remedy: /multus/,
    },
    {
      when: "a running VM without the hook",
      guest: { vmis: known([runningVmi("web")]) },
      level: "warning",
      check: "Restart",
      says: /restarted/,
      remedy: /allow-restart=true/,
    },
    {
      when: "a node that does not exist",
      cluster: { nodes: known([buildNode("node-a"), buildNode("node-c")]) },
      level: "failure",
      check: "Placement",
      says: /node-b, and there is no such node/,
      remedy: /node-a, node-c/,
    },
    {
      when: "a node that is not fit",
      cluster: { nodes: known([buildNode("node-a"), buildNode("node-b", { ready: "False" })]) },
      level: "failure",
      check: "Placement",
      says: /node-b is not Ready/,
    },
    {
      when: "labels that no two nodes have",
      guest: withVm({ spec: { virtualMachineRef: { name: "web" }, placement: { nodeSelector: { rack: "1" } } } }),
      level: "failure",
      check: "Placement",
      says: /0 fit nodes have the labels rack=1/,
    },
    {
      when: "unlike processors",
      cluster: unlike("cpu-model.node.kubevirt.io/Skylake-Client"),
      level: "failure",
      check: "NodesAlike",
      says: /no processor model in common/,
    },
    {
      when: "unlike machines",
      cluster: unlike("machine-type.node.kubevirt.io/pc-q35-rhel9.6.0"),
      level: "failure",
      check: "NodesAlike",
      says: /no machine type in common/,
    },
    {
      when: "a class that does not exist",
      guest: withVm({
        spec: { virtualMachineRef: { name: "web" }, storage: { first: {}, second: { storageClassName: "fast" } } },
      }),
      level: "failure",
      check: "Storage",
      says: /fast, and there is no such class/,
      remedy: /local/,
    },
    {
      when: "no default class",
      cluster: { storageClasses: known([buildObject("StorageClass", "local")]) },
      guest: withVm({ spec: { virtualMachineRef: { name: "web" }, storage: { first: {}, second: {} } } }),
      level: "warning",
      check: "Storage",
      says: /no default storage class/,
    },
    {
      when: "a volume that is not there",
      guest: { volumes: known(new Set<string>()) },
      level: "failure",
      check: "Volumes",
      says: /no volume web-system in namespace shop/,
    },
    {
      when: "a network that is not there",
      guest: { networks: known(new Set<string>()) },
      level: "failure",
      check: "Networks",
      says: /shop[/]lan/,
    },
    {
      when: "one volume under both sides",
      guest: {
        vmis: known([runningVmi("a", { guest: "g", claim: "one" }), runningVmi("b", { guest: "g", claim: "one" })]),
      },
      level: "failure",
      check: "VolumePerSide",
      says: /shop[/]one/,
    },
    {
      when: "a disk that is isolated",
      guest: { vm: buildShownVm({ status: { faults: [buildSeenFault({ state: "Isolated" })] } }) },
      level: "failure",
      check: "Faults",
      says: /disk[/]system of node-a is isolated/,
      remedy: /see to the volume; then kubectl twinrun faults clear web node-a[/]disk[/]system -n shop/,
    },
    {
      when: "a disk that is out of service",
      guest: { vm: buildShownVm({ status: { faults: [buildSeenFault()] } }) },
      level: "warning",
      check: "Faults",
      says: /disk[/]system of node-a is out of service: write failed: EIO/,
    },
    {
      when: "a guest that changes more than its share of the links carries",
      guest: {
        pair: known({
          ...buildPairOn("web", {}),
          status: {
            sides: [
              {
                ...buildReportedSide("node-a", buildReport()),
                traffic: { mibPerSecond: 41, nodePeakMiBPerSecond: 90, heldToMiBPerSecond: 44.6 },
              },
            ],
          },
        }),
      },
      level: "warning",
      check: "LinkShare",
      says: /node-a: .* its share of the node's links carries \(45 MiB[/]s\)/,
      remedy: /annotation twinrun.dev[/]replication-mib-per-second of both nodes/,
    },
    {
      when: "a quorum that dies with the guest",
      cluster: {
        pods: known([buildPod("agent", "node-a"), buildPod("agent", "node-b"), buildPod("quorum", "node-a")]),
      },
      level: "warning",
      check: "QuorumPlaces",
      says: /node-a or node-b/,
    },
  ])("$when", ({ guest = {}, cluster = {}, ...wrong }) => {
    expectFinding(checkGuest(buildClusterFacts(cluster), buildGuestFacts(guest)).findings, wrong);
  });

  test("nodes of whose processors KubeVirt says nothing, as under emulation, do not differ", () => {
    const model = "cpu-model.node.kubevirt.io/Skylake-Client";
    const nodes = known(
      ["node-a", "node-b", "node-c"].map((name) => buildNode(name, { labels: { [model]: "false" } })),
    );
    const { findings } = checkGuest(buildClusterFacts({ nodes }), buildGuestFacts({}));
    expect(findings.find(({ check }) => check === "NodesAlike")).toMatchObject({ level: "ok" });
  });
});
