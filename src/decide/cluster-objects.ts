/** What the operator reads of other people's objects. Everything is optional that a server may leave out. */
import { type GuestPair } from "../api/guest-pair.ts";
import { type ObjectMeta } from "../api/object-meta.ts";
import { type Json } from "../lib/json-merge.ts";

export type ClusterObject = {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: ObjectMeta;
  readonly spec?: Json | undefined;
};

type ObjectCondition = {
  readonly type: string;
  readonly status: string;
  readonly reason?: string | undefined;
  readonly message?: string | undefined;
  readonly lastTransitionTime?: string | null | undefined;
};

export type ClusterNode = ClusterObject & {
  readonly status?: {
    readonly conditions?: readonly ObjectCondition[] | undefined;
    readonly addresses?: readonly { readonly type: string; readonly address: string }[] | undefined;
    readonly allocatable?: Readonly<Record<string, string>> | undefined;
  };
};

export type Pod = ClusterObject & {
  readonly status?: {
    readonly conditions?: readonly ObjectCondition[] | undefined;
    readonly containerStatuses?:
      | readonly { readonly state?: { readonly running?: { readonly startedAt?: string } | undefined } | undefined }[]
      | undefined;
  };
};

export type VirtualMachine = ClusterObject & { readonly status?: Json | undefined };

export type Vmi = ClusterObject & {
  readonly status?: {
    readonly phase?: string | undefined;
    readonly nodeName?: string | undefined;
    readonly evacuationNodeName?: string | undefined;
    /** `frozen` while its file systems are, by the agent in the guest; absent once they are thawed. */
    readonly fsFreezeStatus?: string | undefined;
    readonly conditions?: readonly ObjectCondition[] | undefined;
  };
};

export type Claim = ClusterObject & {
  readonly status?: {
    readonly phase?: string | undefined;
    readonly capacity?: Readonly<Record<string, string>> | undefined;
  };
};

/** A PersistentVolume: what is behind a claim that is bound. */
export type Volume = ClusterObject;

export type DataVolume = ClusterObject & {
  readonly status?: { readonly phase?: string | undefined; readonly progress?: string | undefined };
};

export type ObjectName = { readonly namespace: string; readonly name: string };

export const isNamed = ({ metadata }: ClusterObject, { namespace, name }: ObjectName): boolean =>
  metadata.name === name && metadata.namespace === namespace;

export const isGoing = ({ metadata }: { readonly metadata: ObjectMeta }): boolean =>
  metadata.deletionTimestamp !== undefined;

/** Its guest has ended, and this instance will have none any more. */
export const isFinal = ({ status }: Vmi): boolean => status?.phase === "Succeeded" || status?.phase === "Failed";

export function findCondition(object: ClusterNode | Pod | Vmi, type: string): ObjectCondition | undefined {
  return object.status?.conditions?.find((condition) => condition.type === type);
}

export type PairReport = NonNullable<NonNullable<GuestPair["status"]>["sides"]>[number];
