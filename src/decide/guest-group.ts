/**
 * Guests that fail over together (spec.failover.group): their sides are on the same two nodes, and they run on the same one.
 *
 * One consistent state needs nothing beyond that. What a FaultTolerant guest sends leaves only after the epoch in which it was
 * sent is acknowledged, so whatever one member has heard of another is in the state that the other would go on from; what
 * was acknowledged of it and not heard is on its way, as in any network. After the loss of their node all members go on from such
 * states, each from its own last epoch. What this cannot do is wait for a member that was alone: its state goes with its node.
 *
 * So what is decided here is the place. `node`, where the group is to run, is the same for all members whoever asks: the oldest
 * member keeps in its notes where the group was last together, and of those that were with it then the first that is somewhere
 * else now has moved, by a fault or because it was asked to. The others follow it, live, as soon as their standbys can.
 *
 *   together on A --one member goes on on B--> scattered --the others are handed over--> together on B
 */
import { type ProtectedVmStatus } from "../api/protected-vm.ts";
import { isGoing } from "./cluster-objects.ts";
import { type GroupNote, parseNotes } from "./guest-notes.ts";
import { compareAge, listNodesOf, type Neighbour } from "./neighbours.ts";
import { summarizePair } from "./pair-brief.ts";
import { isMaintained, type PairView, peerOf } from "./pair-view.ts";
import { type Observed } from "./protected-vm-plan.ts";

type Member = {
  readonly guest: string;
  readonly name: string;
  readonly nodes: readonly string[];
  /** The node that runs it, by its own account. */
  readonly primary: string | undefined;
  readonly note: GroupNote | undefined;
};

export type Group = {
  readonly name: string;
  /** Those that have a place, the oldest first. */
  readonly members: readonly Member[];
  /** The two nodes that most of its running members have; undefined while none has a place. */
  readonly nodes: readonly string[] | undefined;
  readonly node: string | undefined;
};

/** Undefined for a guest that is in none. */
export function viewGroup(observed: Observed): Group | undefined {
  const { protectedVm, pair } = observed;
  const name = protectedVm.spec.failover.group;
  if (name === undefined) {
    return undefined;
  }
  const others = observed.neighbours.filter((each) => each.protectedVm.spec?.failover?.group === name);
  const members = [{ protectedVm, pair }, ...others]
    .filter((each) => !isGoing(each.protectedVm))
    .sort((one, other) => compareAge(one.protectedVm, other.protectedVm))
    .flatMap(viewMember);
  const running = members.filter(({ primary }) => primary !== undefined);
  const nodes = findMostCommon((running.length === 0 ? members : running).map((each) => [...each.nodes].sort()));
  return { name, members, nodes, node: findNode(members) ?? nodes?.[0] };
}

function viewMember({ protectedVm, pair }: Neighbour): readonly Member[] {
  if (pair === undefined) {
    return [];
  }
  const { guest, primary } = summarizePair(pair);
  return [
    {
      ...{ guest, name: protectedVm.metadata.name, nodes: listNodesOf(pair), note: parseNotes(pair)?.group },
      // One that is being made is meant to start there.
      primary: pair.status?.sides === undefined ? pair.spec?.roles?.primary : primary,
    },
  ];
}

function findNode(members: readonly Member[]): string | undefined {
  const note = members[0]?.note;
  if (note === undefined) {
    return findMostCommon(members.flatMap(({ primary }) => primary ?? []));
  }
  const moved = members.find(
    ({ guest, primary }) => primary !== undefined && primary !== note.node && note.guests.includes(guest),
  );
  return moved?.primary ?? note.node;
}

/** Of equally common ones the first. */
function findMostCommon<Value>(values: readonly Value[]): Value | undefined {
  const count = (value: Value): number => values.filter((each) => String(each) === String(value)).length;
  return values.reduce<Value | undefined>(
    (best, value) => (best === undefined || count(value) > count(best) ? value : best),
    undefined,
  );
}

/** What the oldest member has to note now; what it has noted already while nothing is settled. */
export function planGroupNote(group: Group | undefined, guest: string): GroupNote | undefined {
  const [keeper] = group?.members ?? [];
  return group === undefined || keeper?.guest !== guest ? undefined : noteTogether(group, keeper.note);
}

function noteTogether({ members, node }: Group, note: GroupNote | undefined): GroupNote | undefined {
  const running = members.filter(({ primary }) => primary !== undefined);
  if (node === undefined || running.length === 0 || running.some(({ primary }) => primary !== node)) {
    return note;
  }
  // Nobody says that he runs one that is changing sides: that it was there before is not forgotten.
  const before = note?.node === node ? note.guests : [];
  const guests = members.filter((member) => member.primary !== undefined || before.includes(member.guest));
  return { node, guests: guests.map((member) => member.guest) };
}

/** Why the guest is to be handed over to its other side; undefined while it is where its group is, or cannot get there. */
export function findWhyToFollow(group: Group | undefined, view: PairView): string | undefined {
  const { primary } = view;
  if (group?.node === undefined || primary === undefined || primary.node === group.node) {
    return undefined;
  }
  const peer = peerOf(view, primary);
  return peer.node === group.node && !isMaintained(peer) ? `its group ${group.name} is on ${group.node}` : undefined;
}

/** The only nodes that may take the place of a side; undefined where every node may. */
export function listNodesBeside(
  group: Group | undefined,
  guest: string,
  { lost, stays }: { readonly lost: string; readonly stays: string },
): readonly string[] | undefined {
  const others = (group?.members ?? []).filter((member) => member.guest !== guest && member.primary !== undefined);
  const places = others.filter(({ nodes }) => nodes.includes(stays)).flatMap(({ nodes }) => nodes);
  const beside = places.filter((node) => node !== stays && node !== lost);
  if (beside.length > 0) {
    return beside;
  }
  // Nobody is where the guest stays: it goes to where the others are.
  return others.length > 0 && places.length === 0 ? group?.nodes?.filter((node) => node !== lost) : undefined;
}

/** Why its standby is to be on another node; undefined while it is on one of the group's. */
export function findWhyToJoin(group: Group | undefined, view: PairView): string | undefined {
  const { primary } = view;
  if (group?.nodes === undefined || primary === undefined || group.nodes.includes(peerOf(view, primary).node)) {
    return undefined;
  }
  return `its group ${group.name} is on ${group.nodes.join(" and ")}`;
}

/** Undefined while the guest is with its group, as far as it has a place. */
export function sayScattered(group: Group | undefined, view: PairView): string | undefined {
  const { nodes, node, name } = group ?? {};
  if (nodes === undefined || node === undefined || name === undefined) {
    return undefined;
  }
  const own = view.sides.map((side) => side.node);
  if (own.some((each) => !nodes.includes(each))) {
    return (
      `group ${name} is on ${nodes.join(" and ")}, this guest on ${own.join(" and ")}: it joins the others when a side of it can ` +
      "be made there; if it stays like this, see whether its placement allows those nodes"
    );
  }
  const where = view.primary?.node;
  return where === undefined || where === node
    ? undefined
    : `group ${name} is on ${node}, this guest still runs on ${where}: it follows as soon as its standby is in sync`;
}

const SHOWN_MAX = 64;

export function encodeGroup(group: Group | undefined): ProtectedVmStatus["group"] {
  if (group === undefined || group.members.length === 0) {
    return undefined; // An empty list is none to the API server, and a group has one.
  }
  const { name, node, members } = group;
  return {
    name,
    ...(node === undefined ? {} : { node }),
    members: members
      .slice(0, SHOWN_MAX)
      .map((member) => ({ name: member.name, ...(member.primary === undefined ? {} : { primary: member.primary }) })),
  };
}
