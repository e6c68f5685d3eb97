/**
 * Which member of the chart's etcd is to be replaced by one of the wanted version. Each member is a StatefulSet of its own (the
 * chart says why), so nobody but us sees to it that they go one after the other: with two of three away no guest can fail over.
 */

export type EtcdMember = {
  readonly name: string;
  /** What its StatefulSet makes of it now is not known yet. */
  readonly isPending: boolean;
  /** Undefined while there is none, or one that is going. */
  readonly pod: EtcdPod | undefined;
};

export type EtcdPod = {
  readonly name: string;
  /** It is of another version than its StatefulSet wants. */
  readonly isOutdated: boolean;
  /** Undefined while it is not ready. */
  readonly readySinceMs: number | undefined;
};

/** A member that was away has what it missed by then. */
export const ETCD_SETTLE_MS = 10_000;

/** The pod to evict; undefined when all are as they should be, or have to settle first. */
export function chooseOutdatedMember(members: readonly EtcdMember[], nowMs: number): string | undefined {
  if (members.some(({ isPending, pod }) => isPending || pod === undefined)) {
    return undefined;
  }
  const pods = members.flatMap(({ pod }) => (pod === undefined ? [] : [pod]));
  const [unsettled, ...others] = pods.filter(({ readySinceMs }) => !isSettled(readySinceMs, nowMs));
  if (unsettled === undefined) {
    return pods.find(({ isOutdated }) => isOutdated)?.name;
  }
  // What keeps it from becoming ready may be what the new version mends.
  const isBroken = others.length === 0 && unsettled.readySinceMs === undefined;
  return isBroken && unsettled.isOutdated ? unsettled.name : undefined;
}

const isSettled = (readySinceMs: number | undefined, nowMs: number): boolean =>
  readySinceMs !== undefined && nowMs - readySinceMs >= ETCD_SETTLE_MS;
