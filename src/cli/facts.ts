/** What doctor looks at, read once: each fact is known, absent, or unknown with the reason. */
import {
  type Json,
  type Known,
  type KubeObject,
  type KubeVirt,
  type Node,
  type Pod,
  type VirtualMachine,
  type Vmi,
  type Workload,
} from "./kube-objects.ts";
import { type ShownPair, type ShownVm } from "./protected-vms.ts";

export type CertificateFact = {
  /** The Secret it is in, and the entry: `twinrun-ca/ca.crt`. */
  readonly name: string;
  readonly validFromMs: number;
  readonly validUntilMs: number;
};

export type ClusterFacts = {
  readonly nowMs: number;
  readonly ownVersion: string;
  readonly systemNamespace: string;
  /** `v1.34.4`. */
  readonly kubernetesVersion: Known<string>;
  /** Names of CustomResourceDefinitions. */
  readonly resources: Known<ReadonlySet<string>>;
  readonly kubevirts: Known<readonly KubeVirt[]>;
  /** Deployments, StatefulSets and DaemonSets of the system namespace. */
  readonly workloads: Known<readonly Workload[]>;
  /** Pods of the system namespace. */
  readonly pods: Known<readonly Pod[]>;
  readonly nodes: Known<readonly Node[]>;
  readonly storageClasses: Known<readonly KubeObject[]>;
  readonly certificates: Known<readonly CertificateFact[]>;
  /** The namespace of second sides. */
  readonly guestsNamespace: Known<KubeObject>;
  /** Whether kubemacpool watches over MAC addresses. */
  readonly hasMacPool: Known<boolean>;
};

export type GuestFacts = {
  readonly vm: ShownVm;
  /** absent: the guest comes from a template, or there is no such VirtualMachine. */
  readonly virtualMachine: Known<VirtualMachine>;
  /** The VirtualMachineInstance of the adopted VM, or those of both sides. */
  readonly vmis: Known<readonly Vmi[]>;
  readonly launchers: Known<readonly Pod[]>;
  readonly pair: Known<ShownPair>;
  /** Names of the PersistentVolumeClaims and DataVolumes in its namespace. */
  readonly volumes: Known<ReadonlySet<string>>;
  /** `NAMESPACE/NAME` of NetworkAttachmentDefinitions in the namespaces its networks name. */
  readonly networks: Known<ReadonlySet<string>>;
};

/** The VirtualMachineInstance's spec that is protected; undefined while nobody knows it. */
export function findGuestSpec({ vm, virtualMachine }: GuestFacts): Json | undefined {
  const template = vm.spec?.virtualMachineTemplate?.spec.template.spec;
  return template ?? (virtualMachine.tag === "known" ? virtualMachine.value.spec?.template?.spec : undefined);
}

export const COMPONENT_LABEL = "app.kubernetes.io/component";
export const componentOf = ({ metadata }: KubeObject): string | undefined => metadata.labels?.[COMPONENT_LABEL];

const LABEL_PREFIXES = { machine: "machine-type.node.kubevirt.io/", model: "cpu-model.node.kubevirt.io/" } as const;

/** Machine types or processor models that a node's labels name. */
export function listOffers({ metadata }: Node, what: keyof typeof LABEL_PREFIXES): readonly string[] {
  const prefix = LABEL_PREFIXES[what];
  return Object.entries(metadata.labels ?? {}).flatMap(([label, value]) =>
    label.startsWith(prefix) && value === "true" ? [label.slice(prefix.length)] : [],
  );
}

/** `pc-q35-rhel9.6.0` is one for ever; `q35` is another one in the next QEMU. */
export const isVersioned = (machine: string): boolean => /[0-9]\.[0-9]/.test(machine);

/** Offered by all of the nodes. */
export function listCommonOffers(nodes: readonly Node[], what: keyof typeof LABEL_PREFIXES): readonly string[] {
  const [first, ...others] = nodes;
  const offers = first === undefined ? [] : listOffers(first, what);
  return offers.filter((offer) => others.every((node) => listOffers(node, what).includes(offer)));
}

/** Every label of the selector, with its value. */
export function hasLabels({ metadata }: KubeObject, selector: Readonly<Record<string, string>>): boolean {
  return Object.entries(selector).every(([key, value]) => metadata.labels?.[key] === value);
}
