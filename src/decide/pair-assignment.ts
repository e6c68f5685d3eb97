/**
 * What a GuestPair means for one of its nodes: the assignment of its engine, and what is wished for besides.
 *
 * Both agents make their half from the same spec, so the names of disks and links and the order of both are equal on both sides;
 * addresses, and where a disk is, are each node's own.
 *
 * A node that has once read the guest's record never makes a first one, whatever the roles say: if somebody deleted the record, a
 * second guest would come of it while the first one runs on the other node.
 */
import { type GuestPair } from "../api/guest-pair.ts";
import { type OverrideRequest, parseOverrideRequest, requestAnnotations } from "../api/requests.ts";
import { qemuDeviceOf } from "../api/vmi-contract.ts";
import { type GuestAssignment, type Link, type Quorums } from "../protocol/assignment.ts";
import { type QuorumSeat } from "../protocol/quorum-record.ts";

/** The object that a guest comes from, as far as an agent writes to it. */
export type PairObject = {
  readonly namespace: string;
  readonly name: string;
  readonly generation: number;
};

/** What is wished of a guest that no engine reads at its start. */
export type GuestWish = {
  readonly guest: string;
  readonly object: PairObject;
  /** Counts where its term is later than the record's. */
  readonly roles: { readonly term: number; readonly primary: string };
  /** The node whose QEMU is to be killed once, if it is the primary and in sync; undefined when nobody asks. */
  readonly failoverFrom: string | undefined;
  /** Whether a guest that shut itself down is to start again. */
  readonly isStartAsked: boolean;
  /** Of this node; undefined when nobody wants to override the quorum for it. */
  readonly override?: OverrideRequest | undefined;
  /** Of the record, that either side has ever reported. */
  readonly latestTerm: number;
  /** The quorum that is to be in force; undefined for a guest without quorums of its own. */
  readonly quorumSeat?: QuorumSeat | undefined;
};

export type PlannedGuest = {
  readonly assignment: GuestAssignment;
  readonly wish: GuestWish;
};

/** `annotations` and `object` come from the object's metadata. Undefined when the node is no side of the pair. */
export function planPair(
  { spec, status }: Pick<GuestPair, "spec" | "status">,
  {
    object,
    annotations,
  }: {
    readonly object: PairObject;
    readonly annotations: Readonly<Record<string, string>>;
  },
  node: string,
): PlannedGuest | undefined {
  const own = spec.sides.find((side) => side.node === node);
  const peer = spec.sides.find((side) => side.node !== node);
  if (own === undefined || peer === undefined) {
    return undefined;
  }
  const { guest, mode, port, checkpoint, failover, roles } = spec;
  const hadRecord = status?.sides?.some((side) => side.node === node && side.term > 0) === true;
  const links = own.links.map(({ name, host }, index): Link => ({
    name,
    localHost: host,
    peerHost: peer.links[index]?.host ?? "",
  }));
  return {
    assignment: {
      guest,
      mode,
      peerNode: peer.node,
      firstPrimary: hadRecord ? peer.node : roles.primary,
      port,
      links,
      disks: spec.disks.map((id) => ({
        ...{ id, device: qemuDeviceOf(id) },
        ...(spec.podDisks?.includes(id) === true ? { isOfPod: true } : {}),
      })),
      qemu: { tag: "pod", namespace: own.vmi.namespace },
      checkpoint,
      failover,
      tracker: "auto",
      isReleasing: spec.intent === "Release",
      ...encodeQuorums(spec),
      uplinks: own.uplinks,
      ...encodeCapacity(own, peer),
      fullResync: spec.fullResync,
    },
    wish: {
      guest,
      object,
      roles,
      failoverFrom: annotations[requestAnnotations.failoverFrom],
      isStartAsked: annotations[requestAnnotations.start] === "true",
      override: findOverride(annotations, node),
      latestTerm: Math.max(0, ...(status?.sides ?? []).map(({ term }) => term)),
      quorumSeat: spec.quorum?.inForce,
    },
  };
}

function findOverride(annotations: Readonly<Record<string, string>>, node: string): OverrideRequest | undefined {
  const override = parseOverrideRequest(annotations[requestAnnotations.forceOwner]);
  return override?.node === node ? override : undefined;
}

type Side = GuestPair["spec"]["sides"][number];

function encodeCapacity(own: Side, peer: Side): Pick<GuestAssignment, "linkCapacity"> {
  const [ownMiBPerSecond, peerMiBPerSecond] = [own.linkMiBPerSecond, peer.linkMiBPerSecond];
  return ownMiBPerSecond === undefined && peerMiBPerSecond === undefined
    ? {}
    : { linkCapacity: { ownMiBPerSecond, peerMiBPerSecond } };
}

function encodeQuorums({ quorum }: GuestPair["spec"]): { readonly quorums?: Quorums } {
  return quorum === undefined ? {} : { quorums: { preferred: quorum.preferred, alternate: quorum.alternate ?? [] } };
}
