/**
 * What a person asks a ProtectedVM to do once: annotations on it. The operator takes the annotation away when it is done or
 * refused, and says which in an event (SwitchedOver, SwitchoverRefused, FailedOver, FailoverRefused, Started, OwnerForced,
 * OverrideRefused, FaultsCleared, ClearRefused).
 */
export const requestAnnotations = {
  /** The name of the node that is to run the guest: a planned change of sides, without a gap for clients. */
  switchoverTo: "twinrun.dev/switchover-to",
  /** The name of the node that is to lose the guest: its QEMU is killed and the standby takes over, as after a fault. */
  failoverFrom: "twinrun.dev/failover-from",
  /** "true": a guest that shut itself down starts again, from the disks it left. */
  start: "twinrun.dev/start",
  /** An OverrideRequest in JSON: a node is to own the guest although the quorum would not let it. */
  forceOwner: "twinrun.dev/force-owner",
  /** `all`, or the COMPONENT, NODE or NODE/COMPONENT that may be used again although it failed again and again. */
  clearFaults: "twinrun.dev/clear-faults",
} as const;

/** Stays on the ProtectedVM: the last override that was carried out, in JSON. */
export const LAST_OVERRIDE_ANNOTATION = "twinrun.dev/last-override";

/**
 * A person takes it on himself that the guest runs nowhere and will not: for a site or a quorum that is lost for good.
 */
export type OverrideRequest = {
  readonly node: string;
  readonly who: string;
  readonly why: string;
  readonly at: string;
  /** He knows of the other side what the cluster cannot see. */
  readonly isCertain: boolean;
};

/** Undefined for anything else. */
export function parseOverrideRequest(text: string | undefined): OverrideRequest | undefined {
  const { node, who, why, at, isCertain } = parseObject(text ?? "");
  const isText = (value: unknown, lengthMax: number): value is string =>
    typeof value === "string" && value !== "" && value.length <= lengthMax;
  return isText(node, 253) && isText(who, 253) && isText(why, 1_024) && isText(at, 64)
    ? { node, who, why, at, isCertain: isCertain === true }
    : undefined;
}

function parseObject(text: string): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Readonly<Record<string, unknown>>) : {};
  } catch {
    return {};
  }
}

/**
 * On a ProtectedVM, and never taken away: whenever its value becomes another one (the time, for example), the standby is given a
 * whole copy once more, whatever both sides believe to have in common. The guest runs on meanwhile, unprotected.
 */
export const FULL_RESYNC_ANNOTATION = "twinrun.dev/full-resync";

/**
 * Node annotation: `INTERFACE,...`, over which clients reach the guests of this node; counts instead of the agents' --uplink. While
 * one is down, guests go to the other node.
 */
export const UPLINKS_ANNOTATION = "twinrun.dev/uplinks";

/**
 * Node annotation: how many MiB a second its replication links carry together. New guests are refused where checkpoints take most of
 * it, and guests that change more than their share of it are slowed down. Without it the most that was measured counts for the
 * first, and nobody is slowed down.
 */
export const LINK_CAPACITY_ANNOTATION = "twinrun.dev/replication-mib-per-second";

/** Node annotation: `NAME=ADDRESS,...`, the node's replication links, the first one preferred; else its InternalIP. */
export const REPLICATION_LINKS_ANNOTATION = "twinrun.dev/replication-links";

/**
 * Node annotation: the node is in maintenance, and the operator empties it. Whoever begins it writes who, when and why in JSON
 * (decide/maintenance.ts), and cordons the node; any other text is a reason.
 */
export const MAINTENANCE_ANNOTATION = "twinrun.dev/maintenance";

/** GuestPair annotation: the maintenance for which the operator has nothing more to move of this guest. */
export const SETTLED_ANNOTATION = "twinrun.dev/settled-for";
