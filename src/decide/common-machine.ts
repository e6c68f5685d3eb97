/**
 * The machine two nodes can both be: a processor model and a versioned machine type that KubeVirt labels both nodes with.
 *
 * The state of one QEMU is loaded into the other, so both have to be told the same. An alias such as q35 means another machine
 * after an upgrade of one node, and host-model another processor on each node; so both are replaced by what they stand for.
 */
import { type Json, readText } from "../lib/json-merge.ts";
import { type ClusterNode } from "./cluster-objects.ts";

/** What both sides are told; a field that is left out is left to KubeVirt, where no node has labels for it. */
export type Machine = { readonly type?: string | undefined; readonly cpuModel?: string | undefined };

export type MachineChoice =
  { readonly tag: "chosen"; readonly machine: Machine } | { readonly tag: "none"; readonly says: string };

const MODEL_LABEL = "cpu-model.node.kubevirt.io/";
const HOST_MODEL_LABEL = "host-model-cpu.node.kubevirt.io/";
const TYPE_LABEL = "machine-type.node.kubevirt.io/";

/** Models of KubeVirt's list that are known to be older than others of their maker; what is not in it counts as newest. */
const MODELS_BY_AGE = [
  ...["486", "qemu32", "kvm32", "pentium", "pentium2", "pentium3", "athlon", "coreduo", "n270"], // These have no 64 bits.
  ...["qemu64", "kvm64", "phenom", "core2duo", "Conroe", "Penryn", "Nehalem"],
  ...["Westmere", "SandyBridge", "IvyBridge", "Haswell-noTSX", "Haswell", "Broadwell-noTSX", "Broadwell"],
  ...["Skylake-Client", "Skylake-Server", "Cascadelake-Server", "Cooperlake", "Icelake-Server", "SapphireRapids"],
  ...["Opteron_G1", "Opteron_G2", "Opteron_G3", "Opteron_G4", "Opteron_G5", "EPYC", "EPYC-Rome", "EPYC-Milan"],
];

export function chooseMachine(instanceSpec: Json, first: ClusterNode, second: ClusterNode): MachineChoice {
  const model = chooseModel(readText(instanceSpec, "domain", "cpu", "model"), first, second);
  const type = chooseType(readText(instanceSpec, "domain", "machine", "type"), first, second);
  if (model.tag === "none") {
    return model;
  }
  return type.tag === "none" ? type : { tag: "chosen", machine: { type: type.value, cpuModel: model.value } };
}

type Choice =
  { readonly tag: "chosen"; readonly value: string | undefined } | { readonly tag: "none"; readonly says: string };

function chooseModel(wanted: string | undefined, first: ClusterNode, second: ClusterNode): Choice {
  const [ofFirst, ofSecond] = [listLabels(first, MODEL_LABEL), listLabels(second, MODEL_LABEL)];
  const isNamed = wanted !== undefined && !wanted.startsWith("host-");
  if (ofFirst.length === 0 && ofSecond.length === 0) {
    return { tag: "chosen", value: isNamed ? wanted : undefined };
  }
  if (isNamed) {
    return requireBoth(wanted, [ofFirst, ofSecond], { what: "processor model", nodes: [first, second] });
  }
  const common = ofFirst.filter((model) => ofSecond.includes(model));
  const hosts = [...listLabels(first, HOST_MODEL_LABEL), ...listLabels(second, HOST_MODEL_LABEL)];
  const best = hosts.find((model) => common.includes(model)) ?? [...common].sort(byAge).at(-1);
  return best === undefined
    ? { tag: "none", says: `${sayNodes(first, second)} have no processor model in common` }
    : { tag: "chosen", value: best };
}

function byAge(one: string, other: string): number {
  const rank = (model: string): number => {
    // Libvirt lists Nehalem-v1, Nehalem-v2, Nehalem-IBRS and the like beside Nehalem.
    const index = MODELS_BY_AGE.indexOf(model.replace(/-v[0-9]+$/, "").replace(/-IBRS$/, ""));
    return index < 0 ? MODELS_BY_AGE.length : index;
  };
  return rank(one) - rank(other) || one.localeCompare(other);
}

function chooseType(wanted: string | undefined, first: ClusterNode, second: ClusterNode): Choice {
  const [ofFirst, ofSecond] = [listLabels(first, TYPE_LABEL), listLabels(second, TYPE_LABEL)];
  if (ofFirst.length === 0 && ofSecond.length === 0) {
    return { tag: "chosen", value: wanted };
  }
  if (wanted !== undefined && isVersioned(wanted)) {
    return requireBoth(wanted, [ofFirst, ofSecond], { what: "machine type", nodes: [first, second] });
  }
  const family = familyOf(wanted ?? defaultType(first));
  const common = ofFirst.filter((type) => type.startsWith(family) && isVersioned(type) && ofSecond.includes(type));
  const newest = [...common].sort(byVersion).at(-1);
  return newest === undefined
    ? { tag: "none", says: `${sayNodes(first, second)} have no versioned machine type ${family}... in common` }
    : { tag: "chosen", value: newest };
}

type Subject = { readonly what: string; readonly nodes: readonly [ClusterNode, ClusterNode] };

function requireBoth(
  wanted: string,
  labels: readonly [readonly string[], readonly string[]],
  subject: Subject,
): Choice {
  const without = subject.nodes.filter((_, index) => labels[index]?.includes(wanted) !== true);
  return without.length === 0
    ? { tag: "chosen", value: wanted }
    : {
        tag: "none",
        says: `${without.map(({ metadata }) => metadata.name).join(" and ")} cannot be the ${subject.what} ${wanted} that the guest asks for`,
      };
}

const sayNodes = (first: ClusterNode, second: ClusterNode): string =>
  `${first.metadata.name} and ${second.metadata.name}`;

const isVersioned = (type: string): boolean => /[0-9]+[.][0-9]+/.test(type);

function defaultType({ metadata }: ClusterNode): string {
  const known: Readonly<Record<string, string>> = { arm64: "virt", s390x: "s390-ccw-virtio" };
  return known[metadata.labels?.["kubernetes.io/arch"] ?? ""] ?? "q35";
}

/** What the names of an alias' versions begin with. */
function familyOf(alias: string): string {
  const known: Readonly<Record<string, string>> = { q35: "pc-q35-", pc: "pc-i440fx-" };
  return known[alias] ?? `${alias}-`;
}

function byVersion(one: string, other: string): number {
  const numbers = (type: string): readonly number[] =>
    (type.match(/[0-9]+(?:[.][0-9]+)+/)?.[0] ?? "").split(".").map(Number);
  const [left, right] = [numbers(one), numbers(other)];
  const at = left.findIndex((number, index) => number !== (right[index] ?? 0));
  return at < 0 ? left.length - right.length || one.localeCompare(other) : (left[at] ?? 0) - (right[at] ?? 0);
}

function listLabels({ metadata }: ClusterNode, prefix: string): readonly string[] {
  return Object.entries(metadata.labels ?? {}).flatMap(([name, value]) =>
    name.startsWith(prefix) && value === "true" ? [name.slice(prefix.length)] : [],
  );
}

/** Whether a node can be what a guest is already. */
export function canBe(node: ClusterNode, { type, cpuModel }: Machine): boolean {
  const [types, models] = [listLabels(node, TYPE_LABEL), listLabels(node, MODEL_LABEL)];
  const hasType = type === undefined || types.length === 0 || types.includes(type);
  return hasType && (cpuModel === undefined || models.length === 0 || models.includes(cpuModel));
}
