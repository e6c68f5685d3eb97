/**
 * Doctor's checks of one ProtectedVM: of one that there is, and of the draft of one before `protect` makes it (which has no
 * status, so that what concerns a status says nothing).
 */
import { type GuestObstacle, listGuestObstacles } from "../api/guest-obstacles.ts";
import { LINK_CAPACITY_ANNOTATION } from "../api/requests.ts";
import { vmiAnnotations } from "../api/vmi-contract.ts";
import { writeAgeOf } from "./duration.ts";
import {
  type ClusterFacts,
  componentOf,
  findGuestSpec,
  type GuestFacts,
  hasLabels,
  isVersioned,
  listCommonOffers,
  listOffers,
} from "./facts.ts";
import { cannotTell, failure, type Finding, type FindingGroup, note, ok, warning } from "./findings.ts";
import {
  type Json,
  keyOf,
  type KubeCondition,
  type Node,
  valueOr,
  type VirtualMachine,
  type Vmi,
} from "./kube-objects.ts";
import { findUnfitness } from "./node-checks.ts";
import { findCondition, isAdopted, listNodes, type ShownVm } from "./protected-vms.ts";

export function checkGuest(cluster: ClusterFacts, guest: GuestFacts): FindingGroup {
  const findings = [
    ...checkConditions(guest.vm),
    ...checkFaults(guest.vm),
    ...checkSides(guest, cluster.nowMs),
    ...checkVirtualMachine(guest),
    ...checkGuestSpec(guest),
    ...checkPlacement(cluster, guest.vm),
    ...checkVolumes(cluster, guest),
    ...checkNetworks(guest),
    ...checkVmis(guest),
    ...checkQuorumPlaces(cluster, guest.vm),
  ];
  return { subject: `ProtectedVM ${keyOf(guest.vm)}`, findings };
}

type ConditionRule = {
  readonly type: Parameters<typeof findCondition>[1];
  readonly bad: "True" | "False";
  readonly level: "failure" | "warning";
};
const CONDITION_RULES: readonly ConditionRule[] = [
  { type: "Ready", bad: "False", level: "warning" },
  { type: "Stalled", bad: "True", level: "failure" },
  { type: "QuorumReachable", bad: "False", level: "failure" },
  { type: "LatencyWithinBound", bad: "False", level: "warning" },
  { type: "DisksHealthy", bad: "False", level: "failure" },
  { type: "LinksHealthy", bad: "False", level: "warning" },
];

/** What the operator and the engines found; their messages hold the remedy. */
function checkConditions(vm: ShownVm): readonly Finding[] {
  return CONDITION_RULES.flatMap(({ type, bad, level }) => {
    const found = findCondition(vm, type);
    if (found === undefined) {
      return [];
    }
    return [found.status === bad ? { level, check: type, message: writeCondition(found) } : wellFinding(found)];
  });
}

/** Nothing to see where nothing has failed. */
function checkFaults({ metadata, status }: ShownVm): readonly Finding[] {
  const { name, namespace = "default" } = metadata;
  return (status?.faults ?? []).flatMap(({ node, component, state, message, remedy }) => {
    switch (state) {
      case "Isolated": {
        const clear = `${remedy}; then kubectl twinrun faults clear ${name} ${node}/${component} -n ${namespace}`;
        return [
          failure("Faults", `${component} of ${node} is isolated, for it failed again and again: ${message}`, clear),
        ];
      }
      case "OutOfService":
        return [warning("Faults", `${component} of ${node} is out of service: ${message}`, remedy)];
      case "InService":
        return [];
    }
  });
}

export const writeCondition = ({ reason, message }: KubeCondition): string =>
  [reason, message].filter((part) => part !== undefined && part !== "").join(": ");

const wellFinding = (found: KubeCondition): Finding =>
  found.status === "Unknown"
    ? { level: "unknown", check: found.type, message: writeCondition(found) }
    : ok(found.type, writeCondition(found));

/** Agents write at least every ten seconds while figures change, and at once when a state does. */
const SILENT_AFTER_MS = 120_000;

function checkSides({ pair }: GuestFacts, nowMs: number): readonly Finding[] {
  if (pair.tag !== "known") {
    return pair.tag === "unknown" ? [cannotTell("Agents", pair, "its GuestPair")] : [];
  }
  return (pair.value.status?.sides ?? []).flatMap(({ node, trouble, reportedAt, role, conditions, traffic }) => {
    const isSilent = nowMs - Date.parse(reportedAt) > SILENT_AFTER_MS;
    const healthy = conditions.every(({ status }) => status === "True");
    return [
      ...(trouble === undefined
        ? []
        : [{ level: "warning", check: "Agents", message: `${node}: ${trouble}` } as const]),
      ...(isSilent && !healthy
        ? [
            warning(
              "Agents",
              `the agent of ${node} (${role}) reported last ${writeAgeOf(reportedAt, nowMs)} ago`,
              `kubectl get pods -A -l app.kubernetes.io/component=agent --field-selector spec.nodeName=${node}`,
            ),
          ]
        : []),
      ...checkShare(node, traffic?.heldToMiBPerSecond),
    ];
  });
}

function checkShare(node: string, heldToMiBPerSecond: number | undefined): readonly Finding[] {
  return heldToMiBPerSecond === undefined
    ? []
    : [
        warning(
          "LinkShare",
          `${node}: the guest changes more than its share of the node's links carries (${Math.round(heldToMiBPerSecond)} MiB/s), ` +
            "and is slowed down so that its neighbours are not",
          "let it change less, move it or its neighbours to other nodes, or give the links more and say how much " +
            `(annotation ${LINK_CAPACITY_ANNOTATION} of both nodes)`,
        ),
      ];
}

function checkVirtualMachine(guest: GuestFacts): readonly Finding[] {
  const { vm, virtualMachine } = guest;
  if (!isAdopted(vm)) {
    return [];
  }
  const name = vm.spec?.virtualMachineRef?.name ?? "";
  if (virtualMachine.tag === "unknown") {
    return [cannotTell("VirtualMachine", virtualMachine, `VirtualMachine ${name}`)];
  }
  if (virtualMachine.tag === "absent") {
    const remedy = `create it, or name another in spec.virtualMachineRef.name: kubectl get vm -n ${vm.metadata.namespace ?? ""}`;
    return [failure("VirtualMachine", `there is no VirtualMachine ${name}`, remedy)];
  }
  return [checkRunStrategy(guest), checkRestart(guest), checkOwnership(guest)].filter((found) => found !== undefined);
}

/** Before protection any will do: Twinrun sets Manual and gives back what was there. */
function checkRunStrategy({ vm, virtualMachine }: GuestFacts): Finding | undefined {
  const strategy = findRunStrategy(valueOr(virtualMachine, undefined)?.spec);
  if (strategy === "Manual") {
    return ok("RunStrategy", "Manual");
  }
  return findCondition(vm, "Ready")?.status === "True"
    ? failure(
        "RunStrategy",
        `the VM's runStrategy is ${strategy}: KubeVirt would start a second copy of a guest that failed`,
        `kubectl patch vm ${nameVirtualMachine(vm)} --type=merge -p '{"spec":{"runStrategy":"Manual"}}'; see what sets it back`,
      )
    : note("RunStrategy", `${strategy} becomes Manual while the VM is protected, and is given back afterwards`);
}

/** The older `running` says the same with less. */
const findRunStrategy = (spec: VirtualMachine["spec"]): string =>
  spec?.runStrategy ?? (spec?.running === true ? "Always" : "Halted");

const nameVirtualMachine = ({ metadata, spec }: ShownVm): string =>
  `-n ${metadata.namespace ?? ""} ${spec?.virtualMachineRef?.name ?? ""}`;

export const ALLOW_RESTART_ANNOTATION = "twinrun.dev/allow-restart";

/** A QEMU that was started without the hook cannot be copied. */
function checkRestart({ vm, vmis }: GuestFacts): Finding | undefined {
  const unprepared = valueOr(vmis, []).filter(
    ({ metadata, status }) => status?.phase === "Running" && metadata.annotations?.[vmiAnnotations.guest] === undefined,
  );
  if (unprepared.length === 0) {
    return undefined;
  }
  return vm.metadata.annotations?.[ALLOW_RESTART_ANNOTATION] === "true"
    ? note("Restart", "the VM runs and is restarted once, to be started in a shape that can be copied")
    : warning(
        "Restart",
        "the VM runs and was not started in a shape that can be copied; protection waits until it is restarted",
        `kubectl annotate pvm -n ${vm.metadata.namespace ?? ""} ${vm.metadata.name} ${ALLOW_RESTART_ANNOTATION}=true (protect --allow-restart) lets Twinrun restart it once`,
      );
}

const OWNER_MARKS: readonly { readonly tool: string; readonly keys: readonly string[] }[] = [
  { tool: "Argo CD", keys: ["argocd.argoproj.io/tracking-id", "argocd.argoproj.io/instance"] },
  { tool: "Flux", keys: ["kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name"] },
];

/** A tool that puts the VM back as Git has it would fight for the fields that Twinrun sets. */
function checkOwnership({ virtualMachine }: GuestFacts): Finding | undefined {
  const metadata = valueOr(virtualMachine, undefined)?.metadata;
  const keys = Object.keys({ ...metadata?.labels, ...metadata?.annotations });
  const owner = OWNER_MARKS.find((mark) => mark.keys.some((key) => keys.includes(key)));
  return owner === undefined
    ? ok("GitOps", "neither Argo CD nor Flux owns the VM")
    : warning(
        "GitOps",
        `${owner.tool} owns the VM and would take back what Twinrun sets in it`,
        `let it ignore spec.runStrategy and spec.template of this VM (${owner.tool === "Flux" ? "kustomize.toolkit.fluxcd.io/ssa: IfNotPresent" : "ignoreDifferences with RespectIgnoreDifferences"})`,
      );
}

function checkGuestSpec(guest: GuestFacts): readonly Finding[] {
  const spec = findGuestSpec(guest);
  if (spec === undefined) {
    return [];
  }
  const obstacles = listGuestObstacles(spec);
  return obstacles.length === 0
    ? [ok("GuestSpec", "nothing in it that cannot be copied")]
    : obstacles.map((obstacle) => encodeObstacle(obstacle, isAdopted(guest.vm)));
}

/** Where the field stands: in the VM, or in the ProtectedVM's own template. */
export function encodeObstacle({ severity, field, message, remedy }: GuestObstacle, adopted: boolean): Finding {
  const where = adopted ? `spec.template.${field} of the VM` : `spec.virtualMachineTemplate.spec.template.${field}`;
  return (severity === "refused" ? failure : warning)("GuestSpec", `${where}: ${message}`, remedy);
}

function checkPlacement({ nodes, pods }: ClusterFacts, vm: ShownVm): readonly Finding[] {
  const placement = vm.spec?.placement;
  if (placement === undefined || nodes.tag !== "known") {
    return placement === undefined
      ? []
      : [cannotTell("Placement", nodes as Exclude<typeof nodes, { tag: "known" }>, "nodes")];
  }
  const fit = (node: Node): boolean => findUnfitness(node, valueOr(pods, [])) === undefined;
  if (placement.nodes !== undefined) {
    const found = placement.nodes.flatMap((name) => nodes.value.filter(({ metadata }) => metadata.name === name));
    return [...checkNamedNodes(placement.nodes, nodes.value, valueOr(pods, [])), ...checkLikeness(found)];
  }
  const selector = placement.nodeSelector ?? {};
  const matching = nodes.value.filter((node) => hasLabels(node, selector)).filter(fit);
  const labels = Object.entries(selector).map(([key, value]) => `${key}=${value}`);
  return matching.length < 2
    ? [
        failure(
          "Placement",
          `${matching.length} fit nodes have the labels ${labels.join(",")}, and two are needed`,
          "label more nodes, or mend what the nodes above lack",
        ),
      ]
    : [
        ok("Placement", `${matching.length} fit nodes: ${matching.map(({ metadata }) => metadata.name).join(", ")}`),
        ...checkSomeLikeness(matching),
      ];
}

function checkNamedNodes(
  names: readonly string[],
  nodes: readonly Node[],
  pods: Parameters<typeof findUnfitness>[1],
): readonly Finding[] {
  return names.map((name) => {
    const node = nodes.find(({ metadata }) => metadata.name === name);
    if (node === undefined) {
      const remedy = `name two of: ${nodes.map(({ metadata }) => metadata.name).join(", ")}`;
      return failure("Placement", `spec.placement.nodes names ${name}, and there is no such node`, remedy);
    }
    const unfitness = findUnfitness(node, pods);
    return unfitness === undefined
      ? ok("Placement", `${name} is fit`)
      : failure("Placement", unfitness.why, unfitness.remedy);
  });
}

/**
 * Both sides need a QEMU of the same machine and processor. Nodes of which KubeVirt says nothing, as under emulation, do not
 * differ.
 */
function checkLikeness(nodes: readonly Node[]): readonly Finding[] {
  if (nodes.length < 2) {
    return [];
  }
  const names = nodes.map(({ metadata }) => metadata.name).join(" and ");
  const machines = listCommonOffers(nodes, "machine").filter(isVersioned);
  const models = listCommonOffers(nodes, "model");
  const says = (what: "machine" | "model"): boolean => nodes.some((node) => listOffers(node, what).length > 0);
  const missing = [
    ...(machines.length === 0 && says("machine") ? ["machine type"] : []),
    ...(models.length === 0 && says("model") ? ["processor model"] : []),
  ];
  return missing.length === 0
    ? [
        ok(
          "NodesAlike",
          `${names} have ${machines.length} machine types and ${models.length} processor models in common`,
        ),
      ]
    : [
        failure(
          "NodesAlike",
          `${names} have no ${missing.join(" and no ")} in common`,
          "take nodes with the same processors and the same KubeVirt: kubectl get nodes --show-labels lists cpu-model.node.kubevirt.io and machine-type.node.kubevirt.io",
        ),
      ];
}

function checkSomeLikeness(nodes: readonly Node[]): readonly Finding[] {
  const alike = nodes.some((one, index) =>
    nodes.slice(index + 1).some((other) => checkLikeness([one, other]).every(({ level }) => level === "ok")),
  );
  return alike
    ? [ok("NodesAlike", "two of them have a machine type and a processor model in common")]
    : checkLikeness(nodes);
}

const DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class";

function checkVolumes({ storageClasses }: ClusterFacts, guest: GuestFacts): readonly Finding[] {
  return [
    ...checkClaims(guest),
    ...(storageClasses.tag === "known" ? checkClasses(storageClasses.value, guest.vm) : []),
  ];
}

function checkClasses(
  classes: readonly { readonly metadata: Node["metadata"] }[],
  { spec }: ShownVm,
): readonly Finding[] {
  const names = classes.map(({ metadata }) => metadata.name);
  const hasDefault = classes.some(({ metadata }) => metadata.annotations?.[DEFAULT_CLASS] === "true");
  return (["first", "second"] as const).map((side) => {
    const wanted = spec?.storage?.[side].storageClassName;
    if (wanted === undefined) {
      return hasDefault || side === "first"
        ? ok(
            "Storage",
            `volumes of the ${side} side are of the ${side === "first" ? "template's or the default" : "default"} class`,
          )
        : warning(
            "Storage",
            "the cluster has no default storage class for volumes of the second side",
            `set spec.storage.second.storageClassName, to one of: ${names.join(", ")}`,
          );
    }
    return names.includes(wanted)
      ? ok("Storage", `volumes of the ${side} side are of class ${wanted}`)
      : failure(
          "Storage",
          `spec.storage.${side}.storageClassName names ${wanted}, and there is no such class`,
          names.length === 0 ? "make a StorageClass" : `name one of: ${names.join(", ")}`,
        );
  });
}

const listOf = (value: unknown): readonly Json[] => (Array.isArray(value) ? (value as readonly Json[]) : []);

/** Claims that the guest's volumes name and nobody makes. */
function checkClaims(guest: GuestFacts): readonly Finding[] {
  const { volumes, vm, virtualMachine } = guest;
  const spec = findGuestSpec(guest);
  if (spec === undefined || volumes.tag !== "known") {
    return [];
  }
  const template = vm.spec?.virtualMachineTemplate?.spec ?? valueOr(virtualMachine, undefined)?.spec;
  const made = new Set(
    listOf(template?.dataVolumeTemplates).map(({ metadata }) => (metadata as Json | undefined)?.["name"]),
  );
  const missing = listClaims(spec).filter((claim) => !made.has(claim) && !volumes.value.has(claim));
  return missing.length === 0
    ? [ok("Volumes", "every volume it names is there or is made")]
    : [
        failure(
          "Volumes",
          `there is no volume ${missing.join(", no ")} in namespace ${vm.metadata.namespace ?? ""}`,
          "create the PersistentVolumeClaim or DataVolume, or correct the name in the guest's volumes",
        ),
      ];
}

function listClaims(spec: Json): readonly string[] {
  return listOf(spec["volumes"]).flatMap((volume) => {
    const claim = (volume["persistentVolumeClaim"] as Json | undefined)?.["claimName"];
    const dataVolume = (volume["dataVolume"] as Json | undefined)?.["name"];
    return [claim, dataVolume].filter((name) => typeof name === "string");
  });
}

/** Definitions of its layer-2 networks; a name without a namespace is of the guest's own. */
export function listNetworkNames(guest: GuestFacts): readonly string[] {
  const namespace = guest.vm.metadata.namespace ?? "";
  return listOf(findGuestSpec(guest)?.["networks"]).flatMap((network) => {
    const name = (network["multus"] as Json | undefined)?.["networkName"];
    return typeof name !== "string" ? [] : [name.includes("/") ? name : `${namespace}/${name}`];
  });
}

function checkNetworks(guest: GuestFacts): readonly Finding[] {
  const wanted = listNetworkNames(guest);
  if (wanted.length === 0) {
    return [];
  }
  if (guest.networks.tag !== "known") {
    return [cannotTell("Networks", guest.networks, "list of NetworkAttachmentDefinitions")];
  }
  const there = guest.networks.value;
  const missing = wanted.filter((name) => !there.has(name));
  return missing.length === 0
    ? [ok("Networks", wanted.join(", "))]
    : [
        failure(
          "Networks",
          `there is no NetworkAttachmentDefinition ${missing.join(", no ")}`,
          "create it, or correct networkName in the guest's networks",
        ),
      ];
}

const FREE_PAGE_ANNOTATION = "kubevirt.io/free-page-reporting-disabled";

/** Of sides that were started for protection. */
function checkVmis({ vmis, launchers }: GuestFacts): readonly Finding[] {
  const sides = valueOr(vmis, []).filter(({ metadata }) => metadata.annotations?.[vmiAnnotations.guest] !== undefined);
  return [
    ...sides.flatMap(checkFreePages),
    ...checkSharing(sides),
    ...valueOr(launchers, []).flatMap(({ metadata, spec }) => {
      const profile = spec?.securityContext?.seccompProfile;
      return profile?.type === "RuntimeDefault"
        ? [
            warning(
              "Seccomp",
              `pod ${metadata.name} runs under RuntimeDefault, which refuses userfaultfd: changed pages are found by comparing all of memory`,
              "let KubeVirt use its own profile (see Seccomp of the cluster)",
            ),
          ]
        : [];
    }),
  ];
}

function checkFreePages(vmi: Vmi): readonly Finding[] {
  return vmi.metadata.annotations?.[FREE_PAGE_ANNOTATION] === "true"
    ? []
    : [
        warning(
          "FreePageReporting",
          `${keyOf(vmi)} gives free pages back all the time, and each counts as changed`,
          `annotation ${FREE_PAGE_ANNOTATION}: "true" in the guest's template; Twinrun sets it at the next start`,
        ),
      ];
}

/** Each side has its own copy; one volume under both would be written by both. */
function checkSharing(sides: readonly Vmi[]): readonly Finding[] {
  const claims = sides.map((side) =>
    listClaims(side.spec ?? {}).map((claim) => `${side.metadata.namespace ?? ""}/${claim}`),
  );
  const [first = [], ...others] = claims;
  const shared = first.filter((claim) => others.some((other) => other.includes(claim)));
  if (sides.length < 2) {
    return [];
  }
  return shared.length === 0
    ? [ok("VolumePerSide", "each side has volumes of its own")]
    : [
        failure(
          "VolumePerSide",
          `both sides use ${shared.join(", ")}`,
          "delete the standby's VirtualMachineInstance; Twinrun makes it anew",
        ),
      ];
}

/** A quorum that sits only on the two nodes of a guest dies with them. */
function checkQuorumPlaces({ pods }: ClusterFacts, vm: ShownVm): readonly Finding[] {
  const nodes = listNodes(vm);
  const places = valueOr(pods, [])
    .filter((pod) => componentOf(pod) === "quorum")
    .flatMap(({ spec }) => spec?.nodeName ?? []);
  if (places.length === 0 || nodes.length < 2) {
    return [];
  }
  return places.every((place) => nodes.includes(place))
    ? [
        warning(
          "QuorumPlaces",
          `every replica of the quorum is on ${nodes.join(" or ")}, where this guest is`,
          "have a replica on a third node (quorum.replicas, quorum.nodeSelector)",
        ),
      ]
    : [ok("QuorumPlaces", "the quorum has a replica away from both nodes")];
}
