/**
 * Where a guest's first side can be for the sake of the volumes that are there already: a claim that is bound says so by the node
 * affinity of its volume, one that is about to be by the node that the scheduler chose for it.
 *
 * https://kubernetes.io/docs/concepts/storage/persistent-volumes/#node-affinity
 */
import { type Json, readObjects, readText } from "../lib/json-merge.ts";
import { type Claim, type ClusterNode } from "./cluster-objects.ts";
import { claimNameOf, type GuestSource, listClaimVolumes } from "./guest-source.ts";
import { type Observed } from "./protected-vm-plan.ts";

/** Of the scheduler, on a claim whose volume is made where its first pod is. */
export const SELECTED_NODE_ANNOTATION = "volume.kubernetes.io/selected-node";

/** Those that the guest is started from and that were not made for it; they are in its own namespace. */
export function listOriginalClaims(observed: Observed, source: GuestSource): readonly Claim[] {
  const { namespace = "" } = observed.protectedVm.metadata;
  return listClaimVolumes(source)
    .map(claimNameOf)
    .filter((name) => source.virtualMachine !== undefined || !isMade(source, name))
    .flatMap((name = "") => observed.findClaim({ namespace, name }) ?? []);
}

const isMade = ({ dataVolumeTemplates }: GuestSource, name: string | undefined): boolean =>
  dataVolumeTemplates.some((template) => readText(template, "metadata", "name") === name);

/** Where a claim was used last, or is about to be; undefined when none says. */
export function findLastNode(claims: readonly Claim[]): string | undefined {
  return claims.map(readSelectedNode).find((node) => node !== undefined);
}

const readSelectedNode = ({ metadata }: Claim): string | undefined => metadata.annotations?.[SELECTED_NODE_ANNOTATION];

/** Why no pod on this node can have all of the claims; undefined where one can, as far as can be seen. */
export function findUnreachable(observed: Observed, claims: readonly Claim[], node: ClusterNode): string | undefined {
  const claim = claims.find((each) => !isReachable(observed, each, node));
  if (claim === undefined) {
    return undefined;
  }
  const selected = readSelectedNode(claim);
  const where = selected === undefined || selected === node.metadata.name ? "elsewhere" : `on ${selected}`;
  return `volume ${claim.metadata.namespace ?? ""}/${claim.metadata.name} is ${where}`;
}

function isReachable(observed: Observed, claim: Claim, node: ClusterNode): boolean {
  const volumeName = readText(claim.spec, "volumeName");
  if (volumeName === undefined) {
    const selected = readSelectedNode(claim);
    return selected === undefined || selected === node.metadata.name;
  }
  const terms = readObjects(observed.findVolume(volumeName)?.spec, "nodeAffinity", "required", "nodeSelectorTerms");
  return terms.length === 0 || terms.some((term) => matchesTerm(node, term));
}

function matchesTerm({ metadata }: ClusterNode, term: Json): boolean {
  const labels = readObjects(term, "matchExpressions").map((each) => ({ each, value: metadata.labels?.[keyOf(each)] }));
  const fields = readObjects(term, "matchFields").map((each) => ({ each, value: metadata.name }));
  const all = [...labels, ...fields];
  // One without a requirement matches nothing.
  return all.length > 0 && all.every(({ each, value }) => meets(value, each));
}

const keyOf = (requirement: Json): string => readText(requirement, "key") ?? "";

type Test = (value: string | undefined, values: readonly string[]) => boolean;

const OPERATORS: Readonly<Record<string, Test>> = {
  In: (value, values) => value !== undefined && values.includes(value),
  NotIn: (value, values) => value === undefined || !values.includes(value),
  Exists: (value) => value !== undefined,
  DoesNotExist: (value) => value === undefined,
  Gt: (value, [bound]) => value !== undefined && Number(value) > Number(bound),
  Lt: (value, [bound]) => value !== undefined && Number(value) < Number(bound),
};

function meets(value: string | undefined, requirement: Json): boolean {
  const values = requirement["values"];
  const test = OPERATORS[readText(requirement, "operator") ?? ""];
  return test?.(value, Array.isArray(values) ? values.map(String) : []) ?? true;
}

/** What a person can do about claims that none of the guest's nodes can have. */
export const MOVE_REMEDY =
  "let spec.placement name a node that can have it beside another, or copy the volume to where the guest is to be";
