/** Reads what doctor looks at. What may not be read is a fact too; only ^C ends it. */
import { X509Certificate } from "node:crypto";
import { GUEST_LABEL } from "../api/vmi-contract.ts";
import { type CertificateFact, type ClusterFacts, componentOf, type GuestFacts } from "./facts.ts";
import { listFlagValues } from "./cluster-checks.ts";
import { listNetworkNames } from "./guest-checks.ts";
import {
  type Json,
  known,
  type Known,
  type KubeObject,
  type KubeVirt,
  type Node,
  type Pod,
  valueOr,
  type VirtualMachine,
  type Vmi,
  type Workload,
} from "./kube-objects.ts";
import { type ShownVm } from "./protected-vms.ts";
import { ask, askPair, findObject, kinds, listObjects, type Session } from "./session.ts";

/** What carries this label is of the chart. */
export const OURS = "app.kubernetes.io/name=twinrun";
const DEFAULT_GUESTS_NAMESPACE = "twinrun-guests";

/** Without `readsSecrets` nothing is known of certificates. */
export async function readClusterFacts(
  session: Session,
  { readsSecrets }: { readonly readsSecrets: boolean },
): Promise<ClusterFacts> {
  const { cluster, call, systemNamespace: namespace, ownVersion } = session;
  const scope = { namespace, labelSelector: OURS };
  const list = <T extends KubeObject>(
    kind: (typeof kinds)[keyof typeof kinds],
    where = {},
  ): Promise<Known<readonly T[]>> => ask(listObjects<T>(session, kind, where));
  const [
    version,
    resources,
    kubevirts,
    deployments,
    daemonSets,
    statefulSets,
    pods,
    nodes,
    storageClasses,
    certificates,
    hasMacPool,
  ] = await Promise.all([
    ask(cluster.readServerVersion(call)),
    list(kinds.resource),
    list<KubeVirt>(kinds.kubevirt),
    list<Workload>(kinds.deployment, scope),
    list<Workload>(kinds.daemonSet, scope),
    list<Workload>(kinds.statefulSet, scope),
    list<Pod>(kinds.pod, scope),
    list<Node>(kinds.node),
    list(kinds.storageClass),
    readsSecrets ? readCertificates(session) : ({ tag: "unknown", why: "not looked at" } as const),
    ask(readHasMacPool(session)),
  ]);
  const workloads = join([deployments, daemonSets, statefulSets]);
  return {
    ...{ nowMs: Date.now(), ownVersion, systemNamespace: namespace },
    kubernetesVersion: change(version, ({ gitVersion }) => gitVersion),
    resources: change(resources, (items) => new Set(items.map(({ metadata }) => metadata.name))),
    ...{ kubevirts, workloads, pods, nodes, storageClasses, certificates, hasMacPool },
    guestsNamespace: await readGuestsNamespace(session, workloads),
  };
}

function change<From, To>(fact: Known<From>, make: (value: From) => To): Known<To> {
  return fact.tag === "known" ? known(make(fact.value)) : fact;
}

/** All of them, or why one of them is not known. */
function join<T>(facts: readonly Known<readonly T[]>[]): Known<readonly T[]> {
  return facts.find(({ tag }) => tag === "unknown") === undefined
    ? known(facts.flatMap((fact) => valueOr(fact, [])))
    : (facts.find(({ tag }) => tag === "unknown") as Known<readonly T[]>);
}

function readGuestsNamespace(session: Session, workloads: Known<readonly Workload[]>): Promise<Known<KubeObject>> {
  const [name = DEFAULT_GUESTS_NAMESPACE] = listFlagValues(valueOr(workloads, []), "operator", "guests-namespace");
  return ask(findObject<KubeObject>(session, { kind: kinds.namespace, name }));
}

/** kubemacpool's own webhook, by the beginning of its name. */
async function readHasMacPool({ cluster, call }: Session): Promise<boolean> {
  const path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
  const { items } = await cluster.readPath<{ readonly items: readonly KubeObject[] }>(path, undefined, call);
  return items.some(({ metadata }) => metadata.name.startsWith("kubemacpool"));
}

const CERTIFICATE_SECRETS = /^twinrun-.*/;

/** Only of the public halves; keys are not looked at. */
async function readCertificates(session: Session): Promise<Known<readonly CertificateFact[]>> {
  const secrets = await ask(
    listObjects<KubeObject & { readonly data?: Readonly<Record<string, string>> }>(session, kinds.secret, {
      namespace: session.systemNamespace,
    }),
  );
  return change(secrets, (items) =>
    items
      .filter(({ metadata }) => CERTIFICATE_SECRETS.test(metadata.name))
      .flatMap(({ metadata, data }) =>
        ["ca.crt", "tls.crt"].flatMap((entry) => parseCertificate(`${metadata.name}/${entry}`, data?.[entry])),
      ),
  );
}

function parseCertificate(name: string, base64: string | undefined): readonly CertificateFact[] {
  if (base64 === undefined) {
    return [];
  }
  try {
    const { validFromDate, validToDate } = new X509Certificate(Buffer.from(base64, "base64"));
    return [{ name, validFromMs: validFromDate.getTime(), validUntilMs: validToDate.getTime() }];
  } catch {
    return []; // It is no certificate, whatever its name says.
  }
}

export async function readGuestFacts(session: Session, vm: ShownVm): Promise<GuestFacts> {
  const namespace = vm.metadata.namespace ?? "";
  const vmName = vm.spec?.virtualMachineRef?.name;
  const [virtualMachine, vmis, launchers, pair, claims, dataVolumes] = await Promise.all([
    vmName === undefined
      ? ({ tag: "absent" } as const)
      : ask(findObject<VirtualMachine>(session, { kind: kinds.virtualMachine, namespace, name: vmName })),
    readVmis(session, vm),
    readLaunchers(session, vm),
    askPair(session, vm),
    ask(listObjects(session, kinds.claim, { namespace })),
    ask(listObjects(session, kinds.dataVolume, { namespace })),
  ]);
  const volumes = change(
    claims,
    (items) => new Set([...items, ...valueOr(dataVolumes, [])].map(({ metadata }) => metadata.name)),
  );
  const guest: GuestFacts = { vm, virtualMachine, vmis, launchers, pair, volumes, networks: known(new Set<string>()) };
  return { ...guest, networks: await readNetworks(session, guest) };
}

/** Of both sides, or of the VM that is to be protected. */
async function readVmis(session: Session, { metadata, spec, status }: ShownVm): Promise<Known<readonly Vmi[]>> {
  const namespace = metadata.namespace ?? "";
  const adopted = spec?.virtualMachineRef === undefined ? [] : [{ namespace, name: spec.virtualMachineRef.name }];
  const sides = [status?.primary?.vmi, status?.standby?.vmi].filter((vmi) => vmi !== undefined);
  const refs = new Map([...adopted, ...sides].map((ref) => [`${ref.namespace}/${ref.name}`, ref]));
  const found = await Promise.all(
    [...refs.values()].map((ref) => ask(findObject<Vmi>(session, { kind: kinds.vmi, ...ref }))),
  );
  return join(found.map((fact) => change(fact, (vmi) => [vmi])));
}

function readLaunchers(session: Session, { status }: ShownVm): Promise<Known<readonly Pod[]>> {
  const guest = status?.guest;
  return guest === undefined
    ? Promise.resolve({ tag: "absent" })
    : ask(listObjects<Pod>(session, kinds.pod, { labelSelector: `kubevirt.io=virt-launcher,${GUEST_LABEL}=${guest}` }));
}

async function readNetworks(session: Session, guest: GuestFacts): Promise<Known<ReadonlySet<string>>> {
  const namespaces = new Set(listNetworkNames(guest).map((name) => name.split("/")[0] ?? ""));
  const lists = await Promise.all(
    [...namespaces].map((namespace) =>
      ask(listObjects<KubeObject & { readonly spec?: Json }>(session, kinds.network, { namespace })),
    ),
  );
  return change(
    join(lists),
    (items) => new Set(items.map(({ metadata }) => `${metadata.namespace ?? ""}/${metadata.name}`)),
  );
}

/** Nodes on which an agent is Ready; for advice. */
export const listAgentNodes = (pods: readonly Pod[]): readonly string[] =>
  pods.filter((pod) => componentOf(pod) === "agent").flatMap(({ spec }) => spec?.nodeName ?? []);
