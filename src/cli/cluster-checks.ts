/** Doctor's checks of what all guests share: Kubernetes, KubeVirt, and Twinrun's own parts. */
import { GROUP } from "../api/custom-resource.ts";
import { customResources } from "../api/custom-resources.ts";
import { writeAge } from "./duration.ts";
import { type CertificateFact, type ClusterFacts, componentOf } from "./facts.ts";
import { cannotTell, failure, type Finding, type FindingGroup, note, ok, warning } from "./findings.ts";
import { type Known, type KubeVirt, valueOr, type Workload } from "./kube-objects.ts";
import { listFitNodes } from "./node-checks.ts";

export function checkCluster(facts: ClusterFacts): FindingGroup {
  const findings = [
    checkKubernetes(facts),
    checkResources(facts),
    ...checkKubeVirt(facts),
    ...checkWorkloads(facts),
    checkFitNodes(facts),
    ...checkCertificates(facts),
    checkMacPool(facts),
    note(
      "OutputHolding",
      "what guests send is held by the preloaded shim; no kernel module (sch_plug) is needed on nodes",
    ),
  ];
  return { subject: "Cluster", findings };
}

/** The parts of `v1.34.4`, `v1.9.0-beta.1`; undefined when it is no version. */
export function parseVersion(text: string): { readonly major: number; readonly minor: number } | undefined {
  const [, major, minor] = /^v?([0-9]+)\.([0-9]+)/.exec(text) ?? [];
  return major === undefined || minor === undefined ? undefined : { major: Number(major), minor: Number(minor) };
}

function isOlder(text: string, major: number, minor: number): boolean {
  const version = parseVersion(text);
  return version !== undefined && (version.major < major || (version.major === major && version.minor < minor));
}

function checkKubernetes({ kubernetesVersion }: ClusterFacts): Finding {
  if (kubernetesVersion.tag !== "known") {
    return cannotTell("Kubernetes", kubernetesVersion, "the version of the API server");
  }
  return isOlder(kubernetesVersion.value, 1, 32)
    ? failure(
        "Kubernetes",
        `${kubernetesVersion.value} does not say on which node the asker of a certificate is, so agents get none`,
        "upgrade Kubernetes to 1.32 or later",
      )
    : ok("Kubernetes", kubernetesVersion.value);
}

function checkResources({ resources, systemNamespace }: ClusterFacts): Finding {
  if (resources.tag !== "known") {
    return cannotTell("CustomResources", resources, "the list of CustomResourceDefinitions");
  }
  const missing = customResources
    .map(({ plural }) => `${plural}.${GROUP}`)
    .filter((name) => !resources.value.has(name));
  return missing.length === 0
    ? ok("CustomResources", customResources.map(({ kind }) => kind).join(", "))
    : failure(
        "CustomResources",
        `missing: ${missing.join(", ")}`,
        `install Twinrun: helm upgrade --install twinrun charts/twinrun -n ${systemNamespace} --create-namespace`,
      );
}

function checkKubeVirt({ kubevirts, workloads }: ClusterFacts): readonly Finding[] {
  if (kubevirts.tag === "unknown") {
    return [cannotTell("KubeVirt", kubevirts, "KubeVirt's own resource")];
  }
  const [kubevirt] = kubevirts.tag === "known" ? kubevirts.value : [];
  if (kubevirt === undefined) {
    return [
      failure(
        "KubeVirt",
        "there is no KubeVirt in this cluster",
        "install KubeVirt 1.4 or later; 1.9 is what was tried",
      ),
    ];
  }
  const [mode] = listFlagValues(valueOr(workloads, []), "operator", "hook-mode");
  return [checkKubeVirtVersion(kubevirt), checkHook(kubevirt, mode), checkSeccomp(kubevirt)];
}

function checkKubeVirtVersion({ status }: KubeVirt): Finding {
  const version = status?.observedKubeVirtVersion ?? "of unknown version";
  if (status?.phase !== undefined && status.phase !== "Deployed") {
    return failure("KubeVirt", `KubeVirt ${version} is ${status.phase}`, "wait, or see what virt-operator says");
  }
  return isOlder(version, 1, 4)
    ? failure(
        "KubeVirt",
        `KubeVirt ${version} resumes guests that a checkpoint has stopped`,
        "upgrade KubeVirt to 1.4 or later",
      )
    : ok("KubeVirt", version);
}

/** By which of two ways the hook gets at a guest's domain; `mode` is the chart's value, when it is known. */
function checkHook(kubevirt: KubeVirt, mode: string | undefined): Finding {
  const hasBinding = kubevirt.spec?.configuration?.network?.binding?.["twinrun"] !== undefined;
  if (mode === "NetworkBinding" || (mode === undefined && hasBinding)) {
    return hasBinding
      ? ok("HookAdmission", "the network binding twinrun is registered")
      : failure(
          "HookAdmission",
          "hook.mode is NetworkBinding, and KubeVirt knows no network binding twinrun",
          "register it as `helm get notes twinrun` says, or set hook.mode to Sidecar",
        );
  }
  return hasGate(kubevirt, "Sidecar")
    ? ok("HookAdmission", "the feature gate Sidecar is on")
    : failure(
        "HookAdmission",
        "KubeVirt lets no hook at its guests: the feature gate Sidecar is off",
        `${writeGatePatch(kubevirt)} (or set hook.mode to NetworkBinding in the chart's values, which needs no gate)`,
      );
}

/** Of a gate that is off unless it is named. */
function hasGate({ spec }: KubeVirt, gate: string): boolean {
  const { featureGates = [], disabledFeatureGates = [] } = spec?.configuration?.developerConfiguration ?? {};
  return featureGates.includes(gate) && !disabledFeatureGates.includes(gate);
}

/** A merge patch replaces lists, so it names the gates there are. */
function writeGatePatch({ metadata, spec }: KubeVirt): string {
  const gates = spec?.configuration?.developerConfiguration?.featureGates ?? [];
  const patch = { spec: { configuration: { developerConfiguration: { featureGates: [...gates, "Sidecar"] } } } };
  const where = `-n ${metadata.namespace ?? "kubevirt"} patch kubevirt ${metadata.name}`;
  return `kubectl ${where} --type=merge -p '${JSON.stringify(patch)}'`;
}

const KUBEVIRT_PROFILE = "kubevirt/kubevirt.json";

const findSeccompProfile = ({ spec }: KubeVirt) =>
  spec?.configuration?.seccompConfiguration?.virtualMachineInstanceProfile?.customProfile;

function checkSeccomp(kubevirt: KubeVirt): Finding {
  const profile = findSeccompProfile(kubevirt);
  const remedy = `set virtualMachineInstanceProfile.customProfile.localhostProfile to ${KUBEVIRT_PROFILE} in the KubeVirt resource (feature gate KubevirtSeccompProfile installs it)`;
  if (profile?.runtimeDefaultProfile === true) {
    return warning(
      "Seccomp",
      "guests run under RuntimeDefault, which refuses userfaultfd: changed pages are found by comparing all of memory",
      remedy,
    );
  }
  const local = profile?.localhostProfile;
  return local === undefined || local === KUBEVIRT_PROFILE
    ? ok(
        "Seccomp",
        local === undefined ? "KubeVirt sets no profile" : `KubeVirt's own profile, which allows userfaultfd`,
      )
    : warning("Seccomp", `guests run under ${local}; whether it allows userfaultfd cannot be seen from here`, remedy);
}

const PARTS = [
  { component: "operator", replicasWanted: 2, without: "nothing is protected anew; guests that are protected stay so" },
  { component: "quorum", replicasWanted: 2, without: "no failover is possible" },
] as const;

function checkWorkloads(facts: ClusterFacts): readonly Finding[] {
  const { workloads, systemNamespace } = facts;
  if (workloads.tag !== "known") {
    return [cannotTell("Installation", workloads, `the workloads in namespace ${systemNamespace}`)];
  }
  const ours = workloads.value.filter((each) => componentOf(each) !== undefined);
  if (ours.length === 0) {
    const remedy = "install Twinrun, or name its namespace with --system-namespace or TWINRUN_NAMESPACE";
    return [failure("Installation", `no part of Twinrun is in namespace ${systemNamespace}`, remedy)];
  }
  return [
    ...PARTS.map((part) => checkPart(part, ours, systemNamespace)),
    checkAgents(ours, systemNamespace),
    checkStore(ours),
    checkVersions(facts, ours),
  ];
}

function checkPart(
  { component, replicasWanted, without }: (typeof PARTS)[number],
  workloads: readonly Workload[],
  namespace: string,
): Finding {
  const check = component === "operator" ? "Operator" : "Quorum";
  const found = workloads.filter((each) => componentOf(each) === component && each.kind === "Deployment");
  const elsewhere = component === "quorum" ? listFlagValues(workloads, "agent", "quorum") : [];
  if (found.length === 0 && elsewhere.length > 0) {
    return note(check, `elsewhere, at ${elsewhere.join(", ")}; it cannot be asked from here`);
  }
  const ready = found.reduce((sum, { status }) => sum + (status?.readyReplicas ?? 0), 0);
  const remedy = `kubectl get pods -n ${namespace} -l app.kubernetes.io/component=${component}`;
  if (ready === 0) {
    return failure(check, `no ${component} is ready: ${without}`, remedy);
  }
  return ready < replicasWanted
    ? warning(
        check,
        `one replica is ready: while it moves, ${without}`,
        `have ${component}.replicas at ${replicasWanted} or more, and see: ${remedy}`,
      )
    : ok(check, `${ready} replicas ready`);
}

function checkAgents(workloads: readonly Workload[], namespace: string): Finding {
  const found = workloads.filter((each) => componentOf(each) === "agent");
  const wanted = found.reduce((sum, { status }) => sum + (status?.desiredNumberScheduled ?? 0), 0);
  const ready = found.reduce((sum, { status }) => sum + (status?.numberReady ?? 0), 0);
  const remedy = `kubectl get pods -n ${namespace} -l app.kubernetes.io/component=agent -o wide`;
  if (ready === 0) {
    return failure("Agents", "no agent is ready on any node: nothing is protected", remedy);
  }
  return ready < wanted
    ? warning("Agents", `${ready} of ${wanted} nodes have an agent that is ready`, remedy)
    : ok("Agents", `on ${ready} nodes`);
}

/** What a component's containers were given as `--FLAG=VALUE` or `--FLAG VALUE`. */
export function listFlagValues(workloads: readonly Workload[], component: string, flag: string): readonly string[] {
  const words = workloads
    .filter((each) => componentOf(each) === component)
    .flatMap(({ spec }) => spec?.template?.spec?.containers ?? [])
    .flatMap(({ command = [], args = [] }) => [...command, ...args]);
  return words.flatMap((word, index) => {
    if (word === `--${flag}`) {
      return words.slice(index + 1, index + 2);
    }
    return word.startsWith(`--${flag}=`) ? [word.slice(flag.length + 3)] : [];
  });
}

function checkStore(workloads: readonly Workload[]): Finding {
  const store = listFlagValues(workloads, "quorum", "store")[0]?.split(":")[0];
  switch (store) {
    case "lease":
      return warning(
        "QuorumStore",
        "the quorum keeps its records in Leases: a failover waits while the API server is away",
        "set quorum.store to etcd in the chart's values, with members on three nodes or at a third site",
      );
    case "etcd":
      return checkEtcd(workloads);
    case undefined:
      return {
        level: "unknown",
        check: "QuorumStore",
        message: "no flag of the quorum's says where it keeps its records",
      };
    default:
      return note("QuorumStore", `the quorum keeps its records in a ${store}`);
  }
}

/** Members that the chart installed; a user's own are not seen from here. */
function checkEtcd(workloads: readonly Workload[]): Finding {
  const members = workloads.find((each) => componentOf(each) === "etcd" && each.kind === "StatefulSet");
  if (members === undefined) {
    return ok("QuorumStore", "an etcd of your own: a failover needs no API server");
  }
  const [ready, wanted] = [members.status?.readyReplicas ?? 0, members.spec?.replicas ?? 3];
  const says = `etcd, ${ready} of ${wanted} members ready`;
  const remedy = `kubectl get pods -n ${members.metadata.namespace ?? ""} -l app.kubernetes.io/component=etcd -o wide`;
  if (ready * 2 <= wanted) {
    return failure("QuorumStore", `${says}: no majority, so no failover is possible`, remedy);
  }
  return ready < wanted
    ? warning("QuorumStore", `${says}: the loss of another may end failovers`, remedy)
    : ok("QuorumStore", `${says}: a failover needs no API server`);
}

const VERSION_LABEL = "app.kubernetes.io/version";

function checkVersions({ ownVersion }: ClusterFacts, workloads: readonly Workload[]): Finding {
  const versions = new Set(workloads.flatMap(({ metadata }) => metadata.labels?.[VERSION_LABEL] ?? []));
  const [version] = versions;
  if (version === undefined) {
    return note("Versions", `this program is ${ownVersion}; the parts in the cluster do not say theirs`);
  }
  if (versions.size > 1) {
    return warning("Versions", `parts of ${[...versions].join(" and ")} run side by side`, "let the upgrade finish");
  }
  return version.replace(/^v/, "") === ownVersion
    ? ok("Versions", version)
    : note("Versions", `this program is ${ownVersion}, the parts in the cluster are ${version}`);
}

function checkFitNodes(facts: ClusterFacts): Finding {
  if (facts.nodes.tag !== "known") {
    return cannotTell("FitNodes", facts.nodes, "the list of nodes");
  }
  const fit = listFitNodes(facts);
  if (fit.length < 2) {
    return failure(
      "FitNodes",
      `${fit.length} of ${facts.nodes.value.length} nodes can be one of the two of a guest`,
      "below, each node says what it lacks",
    );
  }
  return fit.length === 2
    ? note("FitNodes", "two nodes can have a guest; after the loss of one there is no other to protect it on")
    : ok("FitNodes", `${fit.length} nodes can be one of the two of a guest`);
}

/** Twinrun renews at two thirds of a certificate's life; one that is well past that was not renewed. */
const LATE_FRACTION = 0.8;

function checkCertificates({ certificates, nowMs }: ClusterFacts): readonly Finding[] {
  if (certificates.tag !== "known") {
    return [cannotTell("Certificates", certificates, "the Secrets with Twinrun's certificates")];
  }
  return certificates.value.map((certificate) => checkCertificate(certificate, nowMs));
}

function checkCertificate({ name, validFromMs, validUntilMs }: CertificateFact, nowMs: number): Finding {
  const left = writeAge(Math.max(0, validUntilMs - nowMs));
  const remedy = "see what the operator's log says of certificates; with cert-manager, what its Certificate says";
  if (nowMs >= validUntilMs) {
    return failure(
      "Certificates",
      `${name} ended ${writeAge(nowMs - validUntilMs)} ago: engines and quorum refuse each other`,
      remedy,
    );
  }
  return nowMs > validFromMs + (validUntilMs - validFromMs) * LATE_FRACTION
    ? warning("Certificates", `${name} ends in ${left} and was not renewed`, remedy)
    : ok("Certificates", `${name} is good for ${left}`);
}

const MAC_POOL_LABEL = "mutatevirtualmachines.kubemacpool.io";

function checkMacPool({ hasMacPool, guestsNamespace }: ClusterFacts): Finding {
  if (hasMacPool.tag !== "known") {
    return cannotTell("MacPool", hasMacPool, "the list of admission webhooks");
  }
  if (!hasMacPool.value) {
    return ok("MacPool", "no kubemacpool in this cluster");
  }
  const name = nameOfNamespace(guestsNamespace);
  return guestsNamespace.tag === "known" && guestsNamespace.value.metadata.labels?.[MAC_POOL_LABEL] === "ignore"
    ? ok("MacPool", `kubemacpool leaves out ${name}`)
    : warning(
        "MacPool",
        "kubemacpool takes the two sides of a guest, which have the same MAC address, for a collision and alerts",
        `kubectl label namespace ${name} ${MAC_POOL_LABEL}=ignore`,
      );
}

const nameOfNamespace = (namespace: Known<{ readonly metadata: { readonly name: string } }>): string =>
  namespace.tag === "known" ? namespace.value.metadata.name : "twinrun-guests";
