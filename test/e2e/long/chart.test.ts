/**
 * The chart on a cluster, in the order in which its users meet it: `helm test`, a removal that is refused, an upgrade and a
 * rollback under load, what a pod without a certificate gets, the removal, a second installation. One guest is protected
 * meanwhile, and one client counts that never reconnects.
 */
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { kindOf, type KubeObject, type ResourceKind } from "../../../src/kube/kube-object.ts";
import { hookImage, twinrunImage } from "../../lab/kubernetes/images.ts";
import { containerdSocket } from "../../lab/kubernetes/node.ts";
import { buildProtectedGuest } from "../guest-manifests.ts";
import {
  chart,
  chartValues,
  isReady,
  type Platform,
  startPlatform,
  systemNamespace,
  tenantNamespace,
} from "../platform.ts";
import { describeOnCluster, faultMsMax, say, setUpMsMax, testNothingLost, Witness } from "../witness.ts";

const guest = "counter";
const address = "10.77.0.61";
type Pod = KubeObject & {
  readonly spec: { readonly containers: readonly { readonly image: string; readonly resources?: unknown }[] };
  readonly status?: {
    readonly phase?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
  };
};
const pods = kindOf("v1", "Pod");
const vmis = kindOf("kubevirt.io/v1", "VirtualMachineInstance");
const protectedVms = kindOf("twinrun.dev/v1alpha1", "ProtectedVM");

/** How many pods of each there are, and how many must be ready at any moment of a rollout. */
const components = {
  operator: { all: 2, readyMin: 2 },
  agent: { all: 3, readyMin: 2 },
  quorum: { all: 3, readyMin: 2 },
  etcd: { all: 3, readyMin: 2 },
} as const;
type Component = keyof typeof components;
const componentNames = Object.keys(components) as Component[];

const componentOf = ({ metadata }: KubeObject): string => metadata.labels?.["app.kubernetes.io/component"] ?? "";
const isReadyPod = ({ metadata, status }: Pod): boolean =>
  metadata.deletionTimestamp === undefined &&
  status?.conditions?.some(({ type, status: held }) => type === "Ready" && held === "True") === true;

/** Gives the images of the lab another name on every node: by digest, as releases are named. */
async function nameByDigest(platform: Platform, image: string): Promise<{ readonly digest: string }> {
  const repository = image.replace(/:[^:/]*$/, "");
  const ctr = ["ctr", "--address", containerdSocket, "--namespace", "k8s.io", "images"];
  let digest = "";
  for (const node of platform.lab.nodeNames) {
    const listed = await platform.lab.nodeExec(node, [...ctr, "list", `name==${image}`]);
    digest = /sha256:[0-9a-f]{64}/.exec(listed)?.[0] ?? "";
    await platform.lab.nodeExec(node, [...ctr, "tag", "--force", image, `${repository}@${digest}`]);
  }
  return { digest };
}

/** Looks until it is stopped; the smallest number of ready pods of each component that it saw. */
function watchReadiness(platform: Platform): { readonly stop: () => Promise<Readonly<Record<string, number>>> } {
  const least: Record<string, number> = {};
  const stopping = new AbortController();
  const watching = (async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      const { items } = await platform.cluster.list<Pod>(pods, { namespace: systemNamespace });
      for (const name of componentNames) {
        const ready = items.filter((pod) => componentOf(pod) === name && isReadyPod(pod)).length;
        least[name] = Math.min(ready, least[name] ?? Infinity);
      }
      await sleep(200);
    }
  })();
  return {
    stop: async () => {
      stopping.abort();
      await watching;
      return least;
    },
  };
}

async function listPodUids(platform: Platform): Promise<string[]> {
  const { items } = await platform.cluster.list<Pod>(pods, { namespace: systemNamespace });
  const own = items.filter((pod) => componentNames.some((name) => name === componentOf(pod)));
  return own.map(({ metadata }) => `${metadata.name} ${metadata.uid ?? ""}`).sort();
}

/** Waits until every pod of Twinrun is one of the wanted version, and ready. */
async function waitForRollout(platform: Platform, isWanted: (pod: Pod) => boolean): Promise<void> {
  for (;;) {
    const { items } = await platform.cluster.list<Pod>(pods, { namespace: systemNamespace });
    const done = componentNames.filter((name) => {
      const own = items.filter((pod) => componentOf(pod) === name);
      return own.length === components[name].all && own.every((pod) => isReadyPod(pod) && isWanted(pod));
    });
    if (done.length === componentNames.length) {
      return;
    }
    await sleep(500);
  }
}

describeOnCluster(import.meta.filename)("the chart on a cluster", () => {
  let platform: Platform;
  let witness: Witness;
  const values = chartValues("etcd");

  beforeAll(async () => {
    platform = await startPlatform({ store: "etcd", kinds: ["busybox"], say });
  }, setUpMsMax);

  afterAll(async () => {
    await platform.stop();
  }, faultMsMax);

  async function listVmis(): Promise<string[]> {
    const { items } = await platform.cluster.list(vmis);
    return items.map(({ metadata: { namespace = "", name, uid = "" } }) => `${namespace}/${name} ${uid}`).sort();
  }

  /** Everything of Twinrun changes its pods; the client must not notice, and the pair be whole in the end. */
  async function rollUnderLoad(what: string, change: () => Promise<unknown>, isWanted: (pod: Pod) => boolean) {
    say(`${what}: ${(await listVmis()).join(", ")}`);
    const watch = watchReadiness(platform);
    try {
      await change();
      say(`${what}: Helm is done`);
      await waitForRollout(platform, isWanted);
    } finally {
      await watch.stop();
    }
    const least = await watch.stop();
    say(`${what}: every pod is new; the fewest ready ones were ${JSON.stringify(least)}`);
    await platform.waitUntilReady(guest, faultMsMax / 2);
    say(`${what}: protected; ${(await listVmis()).join(", ")}`);
    await witness.hear();
    for (const name of componentNames) {
      expect({ name, enough: (least[name] ?? 0) >= components[name].readyMin, least }).toMatchObject({ enough: true });
    }
  }

  test(
    "helm test finds nothing wrong",
    async () => {
      expect(await platform.helm(["test", "twinrun"])).toContain("Phase:          Succeeded");
    },
    faultMsMax,
  );

  test(
    "a guest is protected, and a client counts its answers",
    async () => {
      const placement = { nodes: ["node-a", "node-b"] };
      witness = await Witness.start(platform, { name: guest, kind: "busybox", address, placement });
    },
    faultMsMax,
  );

  test(
    "helm uninstall is refused, says why and what to do, and changes nothing",
    async () => {
      const says =
        /ProtectedVMs are still there: shop\/counter; [^]*kubectl delete protectedvms[^]*helm (rollback twinrun 1) /;
      const said = await platform.helm(["uninstall", "twinrun"]).catch(String);
      expect(said).toMatch(says);
      const before = await listPodUids(platform);
      await platform.helm((says.exec(said)?.[1] ?? "").split(" "));
      expect(await platform.helm(["status", "twinrun"])).toContain("STATUS: deployed");
      expect(await listPodUids(platform)).toEqual(before);
    },
    faultMsMax,
  );

  test(
    "a pod of a tenant gets nothing from any port of Twinrun, with no certificate, its own or a stolen one",
    async () => {
      const targets = await listPorts(platform, guest);
      const said = await knock(platform, targets);
      say(said);
      const answers = said.split("\n").map((line) => /^(\S+) ([^:]+): (.*)$/.exec(line)?.slice(1) ?? []);
      expect(answers.length).toBe(targets.length * 4);
      expect(answers.filter(([, , what]) => what !== "0 bytes")).toEqual([]);
    },
    faultMsMax,
  );

  test(
    "an upgrade replaces every pod, and the client sees nothing",
    async () => {
      const [image, hook] = [await nameByDigest(platform, twinrunImage), await nameByDigest(platform, hookImage)];
      const resources = { requests: { cpu: "60m", memory: "96Mi" }, limits: { memory: "512Mi" } };
      const logLevel = "debug";
      const next = {
        ...{ image, hook: { image: hook }, operator: { logLevel }, agent: { logLevel } },
        quorum: { ...values.quorum, logLevel, etcd: { ...values.quorum.etcd, resources } },
      };
      await rollUnderLoad(
        "upgrade",
        () => platform.helm(["upgrade", "twinrun", chart], next),
        (pod) =>
          componentOf(pod) === "etcd"
            ? JSON.stringify(pod.spec.containers[0]?.resources).includes("60m")
            : pod.spec.containers[0]?.image.endsWith(image.digest) === true,
      );
    },
    faultMsMax,
  );

  test(
    "so does a rollback",
    async () => {
      await rollUnderLoad(
        "rollback",
        () => platform.helm(["rollback", "twinrun"]),
        (pod) =>
          componentOf(pod) === "etcd"
            ? !JSON.stringify(pod.spec.containers[0]?.resources).includes("60m")
            : pod.spec.containers[0]?.image === twinrunImage,
      );
    },
    faultMsMax,
  );

  testNothingLost(() => witness);

  test(
    "without ProtectedVMs helm uninstall removes everything, and with crds.keep=false the definitions",
    async () => {
      await platform.cluster.remove({ kind: protectedVms, namespace: tenantNamespace, name: guest });
      while ((await platform.readProtectedVm(guest)) !== undefined) {
        await sleep(200);
      }
      await platform.helm(["upgrade", "twinrun", chart, "--reuse-values"], { crds: { keep: false } });
      await platform.helm(["uninstall", "twinrun", "--wait"]);
      // Pods have their time to end, and their volumes wait for that.
      while ((await listLeft(platform)).some((left) => /^(pods|persistentvolumeclaims) /.test(left))) {
        await sleep(500);
      }
      expect(await listLeft(platform)).toEqual([]);
    },
    faultMsMax,
  );

  test(
    "a second installation works as the first one did",
    async () => {
      await platform.install({ store: "etcd", kinds: [], say });
      const placement = { nodes: ["node-b", "node-a"] };
      await platform.apply(buildProtectedGuest({ name: "second", kind: "busybox", address, placement }));
      const vm = await platform.waitUntilReady("second");
      expect(isReady(vm)).toBe(true);
      expect(await platform.helm(["test", "twinrun"])).toContain("Phase:          Succeeded");
    },
    faultMsMax,
  );
});

type Place = KubeObject & {
  readonly spec?: { readonly clusterIP?: string; readonly port?: number };
  readonly status?: {
    readonly podIP?: string;
    readonly addresses?: readonly { readonly type: string; readonly address: string }[];
  };
};

/** Of a node, a pod or a Service. */
function addressOf(place: Place | undefined): string {
  const { addresses, podIP } = place?.status ?? {};
  const onNode = addresses?.find(({ type }) => type === "InternalIP")?.address;
  return onNode ?? podIP ?? place?.spec?.clusterIP ?? "";
}

/** `NAME=HOST:PORT` of everything that listens for Twinrun's own. */
async function listPorts(platform: Platform, name: string): Promise<string[]> {
  const find = async (kind: ResourceKind, isMeant: (place: Place) => boolean): Promise<Place | undefined> => {
    const scope = kind.namespaced ? { namespace: systemNamespace } : {};
    return (await platform.cluster.list<Place>(kind, scope)).items.find(isMeant);
  };
  const { guest: of, standby } = (await platform.readProtectedVm(name))?.status ?? {};
  const pair = await find(kindOf("twinrun.dev/v1alpha1", "GuestPair"), ({ metadata }) => metadata.name === of);
  const node = addressOf(await find(kindOf("v1", "Node"), ({ metadata }) => metadata.name === standby?.node));
  const quorum = addressOf(await find(pods, (pod) => componentOf(pod) === "quorum"));
  const operator = addressOf(await find(pods, (pod) => componentOf(pod) === "operator"));
  const etcd = addressOf(await find(kindOf("v1", "Service"), (service) => componentOf(service) === "etcd"));
  return [
    ...[`heartbeat=${node}:7001`, `agent-metrics=${node}:9443`, `engine=${node}:${pair?.spec?.port ?? 0}`],
    ...[`quorum=${quorum}:7000`, `operator-metrics=${operator}:9443`],
    ...[`etcd-clients=${etcd}:2379`, `etcd-peers=${etcd}:2380`],
  ];
}

/** In a pod of the tenant's, with the certificate of node-c, which is no side of the guest. */
async function knock(platform: Platform, targets: readonly string[]): Promise<string> {
  const script = readFileSync(join(import.meta.dirname, "../knock.ts"), "utf8");
  const stolen = async (file: string): Promise<string> =>
    await platform.lab.nodeExec("node-c", ["sh", "-c", `cat /var/lib/twinrun/pki/current/${file}`]);
  const env = [
    { name: "CERT", value: await stolen("tls.crt") },
    { name: "KEY", value: await stolen("tls.key") },
  ];
  const args = ["--input-type=module-typescript", "--eval", script, "--", ...targets];
  const ref = { kind: pods, namespace: tenantNamespace, name: "knock" };
  await platform.cluster.create({
    ...{ apiVersion: "v1", kind: "Pod", metadata: { name: ref.name, namespace: tenantNamespace } },
    spec: { restartPolicy: "Never", containers: [{ name: "knock", image: twinrunImage, args, env }] },
  } as KubeObject);
  for (;;) {
    const phase = (await platform.cluster.read<Pod>(ref))?.status?.phase ?? "";
    if (["Succeeded", "Failed"].includes(phase)) {
      return (await platform.cluster.readText(ref, "log", {})).trim();
    }
    await sleep(500);
  }
}

/** By group and version. */
const namespacedPlurals: Readonly<Record<string, readonly string[]>> = {
  v1: ["pods", "secrets", "configmaps", "services", "serviceaccounts", "persistentvolumeclaims"],
  "apps/v1": ["deployments", "daemonsets", "statefulsets"],
  "batch/v1": ["jobs"],
  "coordination.k8s.io/v1": ["leases"],
  "networking.k8s.io/v1": ["networkpolicies"],
  "policy/v1": ["poddisruptionbudgets"],
  "rbac.authorization.k8s.io/v1": ["roles", "rolebindings"],
};
const clusterPlurals: Readonly<Record<string, readonly string[]>> = {
  "rbac.authorization.k8s.io/v1": ["clusterroles", "clusterrolebindings"],
  "apiextensions.k8s.io/v1": ["customresourcedefinitions"],
  "admissionregistration.k8s.io/v1": ["validatingadmissionpolicies", "validatingadmissionpolicybindings"],
};

/** What there is of Twinrun in the cluster, but its namespaces and what Kubernetes itself puts into each. */
async function listLeft(platform: Platform): Promise<string[]> {
  const kindsOf = (plurals: typeof clusterPlurals, namespaced: boolean): ResourceKind[] =>
    Object.entries(plurals).flatMap(([apiVersion, names]) =>
      names.map((plural) => ({ apiVersion, kind: plural, plural, namespaced })),
    );
  const left: string[] = [];
  for (const kind of [...kindsOf(namespacedPlurals, true), ...kindsOf(clusterPlurals, false)]) {
    const { items } = await platform.cluster.list(kind);
    const own = items.filter(({ metadata: { namespace, name } }) =>
      namespace === undefined
        ? name.includes("twinrun")
        : [systemNamespace, `${systemNamespace}-guests`].includes(namespace) &&
          !["kube-root-ca.crt", "default"].includes(name),
    );
    left.push(...own.map(({ metadata: { namespace = "", name } }) => `${kind.plural} ${namespace}/${name}`));
  }
  return left;
}
