/** The GuestPair that both agents work by: made once for a guest, then only changed where something asks for it. */
import { decideDetectionMs } from "../api/fault-tolerance.ts";
import { type GuestPair } from "../api/guest-pair.ts";
import {
  FULL_RESYNC_ANNOTATION,
  type OverrideRequest,
  requestAnnotations,
  SETTLED_ANNOTATION,
} from "../api/requests.ts";
import { hasJson } from "../lib/json-merge.ts";
import { type ClusterNode } from "./cluster-objects.ts";
import { listIsolatedLinks } from "./component-faults.ts";
import { findFreePort } from "./engine-ports.ts";
import { planGroupNote, viewGroup } from "./guest-group.ts";
import { type GuestNotes, encodeNotes, NOTES_ANNOTATION } from "./guest-notes.ts";
import { sideMark, sideName } from "./guest-names.ts";
import { type GuestSource, listCopiedDisks } from "./guest-source.ts";
import { readLinkCapacity } from "./link-room.ts";
import { type Link, pairLinks, readUplinks } from "./node-fitness.ts";
import { type RolePlan } from "./pair-roles.ts";
import { planNewQuorum, planQuorum } from "./pair-quorum.ts";
import { type PairView, peerOf, type SideView } from "./pair-view.ts";
import { type Placement } from "./placement.ts";
import { type Work } from "./planned-work.ts";
import { type DesiredPair, type Observed } from "./protected-vm-plan.ts";
import { planStartAt } from "./start-turn.ts";
import { encodeMarks, type GuestIdentity } from "./twin-recipe.ts";

type PairSpec = GuestPair["spec"];
type PairSide = PairSpec["sides"][number];
type Intent = PairSpec["intent"];

export type Subject = {
  readonly observed: Observed;
  readonly source: GuestSource;
  readonly identity: GuestIdentity;
};

type Frame = {
  readonly roles: PairSpec["roles"];
  readonly sides: readonly PairSide[];
  readonly intent: Intent;
  readonly port: number;
  readonly notes: GuestNotes;
  readonly failoverFrom: string | undefined;
  readonly isStartAsked: boolean;
  readonly quorum: PairSpec["quorum"];
  readonly override?: OverrideRequest | undefined;
  readonly settledFor?: string | undefined;
};

function encodeFrame({ observed, source, identity }: Subject, frame: Frame): DesiredPair {
  const { spec, metadata } = observed.protectedVm;
  const fullResync = metadata.annotations?.[FULL_RESYNC_ANNOTATION]?.slice(0, 253);
  const { labels, annotations } = encodeMarks(identity);
  const disks = listCopiedDisks(source);
  const podDisks = disks.filter(({ isOfPod }) => isOfPod).map(({ name }) => name);
  const requests = {
    ...(frame.failoverFrom === undefined ? {} : { [requestAnnotations.failoverFrom]: frame.failoverFrom }),
    ...(frame.isStartAsked ? { [requestAnnotations.start]: "true" } : {}),
    ...(frame.override === undefined ? {} : { [requestAnnotations.forceOwner]: JSON.stringify(frame.override) }),
    ...(frame.settledFor === undefined ? {} : { [SETTLED_ANNOTATION]: frame.settledFor }),
  };
  return {
    apiVersion: "twinrun.dev/v1alpha1",
    kind: "GuestPair",
    metadata: {
      name: identity.guest,
      namespace: observed.settings.namespace,
      labels,
      annotations: { ...annotations, [NOTES_ANNOTATION]: encodeNotes(frame.notes), ...requests },
    },
    spec: {
      guest: identity.guest,
      mode: spec.mode,
      roles: frame.roles,
      sides: frame.sides.map((side) => ({ ...side, ...encodeNodeOf(observed, side) })),
      intent: frame.intent,
      disks: disks.map(({ name }) => name),
      ...(podDisks.length === 0 ? {} : { podDisks }),
      port: frame.port,
      ...(frame.quorum === undefined ? {} : { quorum: frame.quorum }),
      checkpoint: spec.checkpoint,
      failover: { detectionTimeoutMs: decideDetectionMs(spec) },
      ...(fullResync === undefined ? {} : { fullResync }),
    },
  };
}

/** What the side's node says of itself, at any time. */
function encodeNodeOf({ nodes }: Observed, side: PairSide): Pick<PairSide, "uplinks" | "linkMiBPerSecond"> {
  const node = nodes.find(({ metadata }) => metadata.name === side.node);
  const uplinks = readUplinks(node);
  const linkMiBPerSecond = readLinkCapacity(node);
  return {
    ...(uplinks.length === 0 ? {} : { uplinks: [...uplinks] }),
    ...(linkMiBPerSecond === undefined ? {} : { linkMiBPerSecond }),
  };
}

export type Placed = Extract<Placement, { tag: "placed" }>;

/** For a guest that has none yet; undefined when its nodes have no port left that is free on both. */
export function encodeNewPair(subject: Subject, { first, second, machine }: Placed): DesiredPair | undefined {
  const { observed } = subject;
  const nodes = [first.metadata.name, second.metadata.name] as const;
  const port = findFreePort(observed.settings.ports, observed.usedPorts, nodes);
  if (port === undefined) {
    return undefined;
  }
  const [ofFirst, ofSecond] = pairLinks(first, second);
  return encodeFrame(subject, {
    roles: { term: 1, primary: nodes[0] },
    sides: [
      encodeSide(subject, { node: nodes[0], place: "first", links: ofFirst, isOrigin: true }),
      encodeSide(subject, { node: nodes[1], place: "second", links: ofSecond, isOrigin: false }),
    ],
    intent: "Protect",
    port,
    notes: { first: nodes[0], origin: nodes[0], port, machine },
    failoverFrom: undefined,
    isStartAsked: false,
    quorum: planNewQuorum(observed.splitSitePair),
  });
}

type NewSide = Pick<SideView, "node" | "place" | "isOrigin"> & { readonly links: readonly Link[] };

function encodeSide({ observed, source, identity }: Subject, { node, place, links, isOrigin }: NewSide): PairSide {
  const { guestsNamespace } = observed.settings;
  const own = isOrigin ? source.virtualMachine?.metadata.name : undefined;
  const vmi = {
    namespace: place === "first" ? identity.namespace : guestsNamespace,
    name: own ?? sideName(identity.name, sideMark(identity.uid, node)),
  };
  return { node, vmi, links: [...links] };
}

/** A node that takes the place of a lost one, and the port of the guest's engines from then on. */
export type Replacement = { readonly lost: SideView; readonly node: ClusterNode; readonly port: number };

export type PairChange = {
  readonly rolePlan: RolePlan;
  readonly intent: Intent;
  readonly replacement: Replacement | undefined;
  readonly work: Work;
};

/** The pair of a guest that has one. */
export function encodePair(subject: Subject, view: PairView, change: PairChange): DesiredPair {
  const { rolePlan, intent, replacement, work } = change;
  const { notes } = view;
  const sides = encodeSides(subject, view, replacement);
  const port = replacement?.port ?? ownPort(view);
  const { quorum, quorumAt } = planQuorum(subject.observed, view);
  return encodeFrame(subject, {
    roles: moveRoles(rolePlan.roles, view, sides),
    sides,
    intent,
    port,
    notes: {
      first: replacement?.lost.place === "first" ? replacement.node.metadata.name : notes.first,
      origin: replacement?.lost.isOrigin === true ? undefined : notes.origin,
      port,
      machine: notes.machine,
      inSyncTerm: view.isInSync ? view.term : notes.inSyncTerm,
      rolesAt: rolePlan.rolesAt,
      quorumAt,
      turnAt: work.turnAt,
      startAt: planStartAt(subject.observed, view),
      group: planGroupNote(viewGroup(subject.observed), view.pair.metadata.name),
    },
    failoverFrom: rolePlan.failoverFrom,
    isStartAsked: rolePlan.isStartAsked,
    quorum,
    override: rolePlan.override,
    settledFor: work.settledFor,
  });
}

/** As it was given, should somebody have changed it. */
export const ownPort = ({ pair, notes }: PairView): number => notes.port ?? pair.spec.port;

/** Roles have to name a side. Whoever runs the guest is meant, in a term that changes nothing, or the next that is allowed. */
function moveRoles(
  roles: PairSpec["roles"],
  { term, primary }: PairView,
  sides: readonly PairSide[],
): PairSpec["roles"] {
  return sides.some(({ node }) => node === roles.primary) || primary === undefined
    ? roles
    : { term: Math.max(term, roles.term + 1), primary: primary.node };
}

function encodeSides(subject: Subject, view: PairView, replacement: Replacement | undefined): readonly PairSide[] {
  const { nodes } = subject.observed;
  const sides = view.sides.map((side): PairSide => {
    const known = view.pair.spec.sides.find(({ node }) => node === side.node);
    const links = known?.links ?? [];
    return replacement?.lost.node === side.node
      ? encodeSide(subject, { node: replacement.node.metadata.name, place: side.place, links: [], isOrigin: false })
      : { node: side.node, vmi: side.vmiName, links };
  });
  const [first, second] = sides.map(({ node }) => nodes.find(({ metadata }) => metadata.name === node));
  // A node that is gone keeps the addresses it had, and so does its peer.
  if (first === undefined || second === undefined) {
    return sides;
  }
  const links = pairLinks(first, second).map((all) => leaveOutIsolated(all, listIsolatedLinks(view.faults)));
  return sides.map((side, index) => ({ ...side, links: [...(links[index] ?? side.links)] }));
}

/** A bad link is better than none. */
function leaveOutIsolated(links: readonly Link[], isolated: readonly string[]): readonly Link[] {
  const others = links.filter(({ name }) => !isolated.includes(name));
  return others.length === 0 ? links : others;
}

/** Whether somebody changed the pair, or it has to change. */
export function isApplied(pair: GuestPair, desired: DesiredPair): boolean {
  const isAsked = (name: string): boolean => desired.metadata.annotations?.[name] !== undefined;
  const { failoverFrom, start, forceOwner } = requestAnnotations;
  const hasLeftover = [failoverFrom, start, forceOwner, SETTLED_ANNOTATION].some(
    (request) => pair.metadata.annotations?.[request] !== undefined && !isAsked(request),
  );
  return (
    !hasLeftover &&
    hasJson(pair.spec, desired.spec) &&
    hasJson(pair.metadata.labels ?? {}, desired.metadata.labels) &&
    hasJson(pair.metadata.annotations ?? {}, desired.metadata.annotations)
  );
}

/** Its peer runs the guest without it, and it will not come back soon, or is not wanted any more. */
export function findReplaceable(view: PairView, isGivenUp: (side: SideView) => boolean): SideView | undefined {
  const { primary } = view;
  const peer = primary === undefined ? undefined : peerOf(view, primary);
  return peer !== undefined && !peer.isVirtualMachine && isGivenUp(peer) ? peer : undefined;
}
