/**
 * The part of other people's objects that the command line reads. Everything is optional that an API server may leave out, so
 * that no view fails for an object that is older or newer than expected.
 */

import { type KubeObject } from "../kube/kube-object.ts";

export type Json = Readonly<Record<string, unknown>>;

export type Metadata = KubeObject["metadata"];
export { type KubeObject };

export type KubeCondition = {
  readonly type: string;
  readonly status: string;
  readonly reason?: string;
  readonly message?: string;
  readonly lastTransitionTime?: string;
};

export type Node = KubeObject & {
  readonly spec?: { readonly unschedulable?: boolean };
  readonly status?: {
    readonly conditions?: readonly KubeCondition[];
    readonly nodeInfo?: { readonly kernelVersion?: string; readonly architecture?: string; readonly osImage?: string };
    readonly addresses?: readonly { readonly type: string; readonly address: string }[];
  };
};

export type Container = {
  readonly name: string;
  readonly image?: string;
  readonly args?: readonly string[];
  readonly command?: readonly string[];
};

export type Pod = KubeObject & {
  readonly spec?: {
    readonly nodeName?: string;
    readonly containers?: readonly Container[];
    readonly initContainers?: readonly Container[];
    readonly securityContext?: { readonly seccompProfile?: SeccompProfile };
  };
  readonly status?: {
    readonly phase?: string;
    readonly conditions?: readonly KubeCondition[];
    readonly containerStatuses?: readonly {
      readonly name: string;
      readonly restartCount?: number;
      readonly state?: { readonly running?: { readonly startedAt?: string } };
    }[];
  };
};

export type SeccompProfile = { readonly type?: string; readonly localhostProfile?: string };

/** Deployment, StatefulSet and DaemonSet. */
export type Workload = KubeObject & {
  readonly spec?: {
    readonly replicas?: number;
    readonly template?: { readonly spec?: { readonly containers?: readonly Container[] } };
  };
  readonly status?: {
    readonly readyReplicas?: number;
    readonly numberReady?: number;
    readonly desiredNumberScheduled?: number;
  };
};

export type KubeVirt = KubeObject & {
  readonly spec?: {
    readonly configuration?: {
      readonly developerConfiguration?: {
        readonly featureGates?: readonly string[];
        readonly disabledFeatureGates?: readonly string[];
      };
      readonly network?: { readonly binding?: Readonly<Record<string, unknown>> };
      readonly seccompConfiguration?: {
        readonly virtualMachineInstanceProfile?: {
          readonly customProfile?: { readonly runtimeDefaultProfile?: boolean; readonly localhostProfile?: string };
        };
      };
      readonly supportContainerResources?: readonly { readonly type?: string }[];
    };
  };
  readonly status?: { readonly observedKubeVirtVersion?: string; readonly phase?: string };
};

export type Vmi = KubeObject & {
  readonly spec?: Json;
  readonly status?: {
    readonly phase?: string;
    readonly nodeName?: string;
    readonly conditions?: readonly KubeCondition[];
  };
};

export type VirtualMachine = KubeObject & {
  readonly spec?: {
    readonly runStrategy?: string;
    readonly running?: boolean;
    readonly dataVolumeTemplates?: readonly { readonly metadata?: { readonly name?: string } }[];
    readonly template?: { readonly metadata?: Partial<Metadata>; readonly spec?: Json };
  };
  readonly status?: { readonly printableStatus?: string; readonly created?: boolean; readonly ready?: boolean };
};

/** events.k8s.io/v1; what older recorders write stands in the deprecated fields. */
export type KubeEvent = KubeObject & {
  readonly eventTime?: string | null;
  readonly reason?: string;
  readonly note?: string;
  readonly type?: string;
  readonly action?: string;
  readonly reportingController?: string;
  readonly regarding?: { readonly kind?: string; readonly namespace?: string; readonly name?: string };
  readonly series?: { readonly count?: number; readonly lastObservedTime?: string };
  readonly deprecatedCount?: number;
  readonly deprecatedFirstTimestamp?: string | null;
  readonly deprecatedLastTimestamp?: string | null;
};

/** What could be found out about something: its value, that it is not there, or why nobody knows. */
export type Known<Value> =
  | { readonly tag: "known"; readonly value: Value }
  | { readonly tag: "absent" }
  | { readonly tag: "unknown"; readonly why: string };

export const known = <Value>(value: Value): Known<Value> => ({ tag: "known", value });
export const valueOr = <Value, Otherwise>(fact: Known<Value>, otherwise: Otherwise): Value | Otherwise =>
  fact.tag === "known" ? fact.value : otherwise;

export const isTrue = (conditions: readonly KubeCondition[] | undefined, type: string): boolean =>
  conditions?.some((each) => each.type === type && each.status === "True") ?? false;

/** `NAMESPACE/NAME`. */
export const keyOf = ({ metadata }: Pick<KubeObject, "metadata">): string =>
  metadata.namespace === undefined ? metadata.name : `${metadata.namespace}/${metadata.name}`;
