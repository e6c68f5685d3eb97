/** What is done to a cluster by those who test it, and the list of faults that every store of the quorum has to survive. */
import { setTimeout as sleep } from "node:timers/promises";
import { requestAnnotations } from "../../src/api/requests.ts";
import { assert, present } from "../../src/lib/assert.ts";
import { kindOf, type KubeObject } from "../../src/kube/kube-object.ts";
import { kubectl } from "./kubectl.ts";
import { type Platform, systemNamespace, tenantNamespace } from "./platform.ts";
import { type Fault, type Scene } from "./witness.ts";

const pods = kindOf("v1", "Pod");
export const vmis = kindOf("kubevirt.io/v1", "VirtualMachineInstance");

export const component = (name: string): string => `app.kubernetes.io/component=${name}`;

/** At once, as when they crash. */
export async function deletePods({ cluster }: Platform, labelSelector: string, node?: string): Promise<void> {
  const fieldSelector = node === undefined ? undefined : `spec.nodeName=${node}`;
  const { items } = await cluster.list(pods, { namespace: systemNamespace, labelSelector, fieldSelector });
  assert(items.length > 0, `there are pods with ${labelSelector}`);
  for (const { metadata } of items) {
    await cluster.remove({ kind: pods, namespace: systemNamespace, name: metadata.name }, { gracePeriodSeconds: 0 });
  }
}

type Agent = KubeObject & { readonly status?: { readonly conditions?: readonly { type: string; status: string }[] } };
type Agents = KubeObject & {
  readonly status?: { readonly updatedNumberScheduled?: number; readonly desiredNumberScheduled?: number };
};

/**
 * Gives every agent a new pod, as an upgrade does, and waits for the last. For each of them: whether all was well when it went, by
 * the last look at which it was still there, or the next.
 */
export async function rollAgents(platform: Platform, isWell: () => Promise<boolean>): Promise<readonly boolean[]> {
  const { cluster } = platform;
  const scope = { namespace: systemNamespace, labelSelector: component("agent") };
  const old = new Set((await cluster.list(pods, scope)).items.map(({ metadata }) => metadata.uid));
  await kubectl(platform, "rollout", "restart", "--namespace", systemNamespace, "daemonset/twinrun-agent");
  const seen: boolean[] = [];
  for (let [before, now] = [false, await isWell()]; ; [before, now] = [now, await isWell()]) {
    const agents = (await cluster.list<Agent>(pods, scope)).items;
    const uids = agents.filter(({ metadata }) => metadata.deletionTimestamp === undefined).map(uidOf);
    for (const gone of [...old].filter((uid) => !uids.includes(uid))) {
      old.delete(gone);
      seen.push(before || now);
    }
    const set = (await cluster.list<Agents>(kindOf("apps/v1", "DaemonSet"), scope)).items[0]?.status;
    const isNew = set?.updatedNumberScheduled === set?.desiredNumberScheduled;
    if (old.size === 0 && isNew && agents.length === set?.desiredNumberScheduled && agents.every(isReadyAgent)) {
      return seen;
    }
    await sleep(100);
  }
}

const uidOf = ({ metadata }: KubeObject): string | undefined => metadata.uid;
const isReadyAgent = ({ status }: Agent): boolean =>
  status?.conditions?.some((each) => each.type === "Ready" && each.status === "True") === true;

async function deleteVmi({ platform, guest }: Scene, side: "primary" | "standby"): Promise<void> {
  const vm = await platform.readProtectedVm(guest);
  const { vmi } = present(vm?.status?.[side], `a ${side}`);
  await platform.cluster.remove({ kind: vmis, ...vmi });
}

async function request({ platform, guest }: Scene, annotation: string, node: string): Promise<void> {
  const ref = { kind: kindOf("twinrun.dev/v1alpha1", "ProtectedVM"), namespace: tenantNamespace, name: guest };
  await platform.cluster.patch(ref, { metadata: { annotations: { [annotation]: node } } });
}

export async function cyclePower({ lab }: Platform, node: string): Promise<void> {
  await lab.powerOff(node);
  await sleep(5_000);
  await lab.powerOn(node);
}

/** The one that has no side of the guest. */
const findThird = ({ platform, primary, standby }: Scene): string =>
  present(
    platform.lab.nodeNames.find((name) => name !== primary && name !== standby),
    "a third node",
  );

async function restKubelet({ platform: { lab }, primary }: Scene): Promise<void> {
  await lab.stopKubelet(primary);
  await sleep(10_000);
  await lab.startKubelet(primary);
}

async function cutReplication({ platform: { lab }, primary, standby }: Scene): Promise<void> {
  for (const network of ["management", "replication"] as const) {
    lab.cutLink(primary, network, standby);
  }
  await sleep(5_000);
  for (const network of ["management", "replication"] as const) {
    lab.mendLink(primary, network, standby);
  }
}

/** By a person, who waits for its end and then lets the node work again. */
async function drain({ platform, primary }: Scene): Promise<void> {
  const options = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"];
  await kubectl(platform, "drain", primary, ...options);
  const { items } = await platform.cluster.list(pods, {
    labelSelector: "kubevirt.io=virt-launcher",
    fieldSelector: `spec.nodeName=${primary}`,
  });
  assert(items.length === 0, `no guest is left on ${primary}`);
  await kubectl(platform, "uncordon", primary);
}

/** No guest is lost by it: it is refused, in words that say what to do first. */
async function tryDeleteDefinitions({ platform }: Scene): Promise<void> {
  for (const name of ["protectedvms.twinrun.dev", "guestpairs.twinrun.dev"]) {
    const said = await kubectl(platform, "delete", "crd", name, "--wait=false").catch(String);
    assert(/is protected: delete every ProtectedVM first/.test(said), `kubectl delete crd ${name} is refused: ${said}`);
  }
}

export const coreFaults: readonly Fault[] = [
  {
    what: "the primary's node loses power",
    ends: "elsewhere",
    strike: (scene) => cyclePower(scene.platform, scene.primary),
  },
  {
    what: "the standby's node loses power",
    ends: "there",
    strike: (scene) => cyclePower(scene.platform, scene.standby),
  },
  {
    what: "the third node loses power, with what of the quorum and the operator is on it",
    ends: "there",
    strike: (scene) => cyclePower(scene.platform, findThird(scene)),
  },
  {
    what: "a user asks for a switchover",
    ends: "elsewhere",
    strike: (scene) => request(scene, requestAnnotations.switchoverTo, scene.standby),
  },
  {
    what: "a user asks for a failover",
    ends: "elsewhere",
    strike: (scene) => request(scene, requestAnnotations.failoverFrom, scene.primary),
  },
  { what: "the primary's node is drained", ends: "elsewhere", strike: drain },
  {
    what: "the kubelet of the primary's node is stopped for a while",
    ends: "there",
    strike: restKubelet,
  },
  {
    what: "the agent of the standby is killed",
    ends: "there",
    strike: ({ platform, standby }) => deletePods(platform, component("agent"), standby),
  },
  {
    what: "both operators are killed",
    ends: "there",
    strike: ({ platform }) => deletePods(platform, component("operator")),
  },
  {
    what: "all replicas of the quorum service are killed",
    ends: "there",
    strike: ({ platform }) => deletePods(platform, component("quorum")),
  },
  {
    what: "both replication links between the nodes are cut for a while",
    ends: "there",
    strike: cutReplication,
  },
  {
    what: "the standby's VirtualMachineInstance is deleted by hand",
    ends: "there",
    strike: (scene) => deleteVmi(scene, "standby"),
  },
  {
    what: "the primary's VirtualMachineInstance is deleted by hand",
    ends: "elsewhere",
    strike: (scene) => deleteVmi(scene, "primary"),
  },
  {
    what: "somebody tries to delete the definitions of Twinrun's resources",
    ends: "there",
    strike: tryDeleteDefinitions,
  },
];
