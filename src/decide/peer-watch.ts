/**
 * What the heartbeats between agents tell of the peers of a node, and of the links to them: which of them is out of service.
 *
 * - A link is, once nothing came over it for a while during which another link to the same peer worked.
 * - The peer's host is, when every link to it fell silent without a word, for longer than a busy agent may take to answer. Whether
 *   it died or all its links did looks the same.
 * - The peer's agent is, when it said goodbye and stays away for longer than it takes to be replaced.
 *
 * What works again has to do so for a while before it counts as repaired, so that what flaps is one incident. A peer that was
 * never heard is none that was lost; its agent may not be there yet.
 */
import { type Fault, type FaultComponent } from "../protocol/faults.ts";
import { type FaultEvent, SETTLE_MS } from "./fault-log.ts";

export type SeenLink = {
  readonly name: string;
  readonly alive: boolean;
  /** The peer ended the connection itself: its host lives, or did so at that moment. */
  readonly wasClosed: boolean;
};
export type SeenPeer = { readonly peer: string; readonly links: readonly SeenLink[] };

/** A link as it is, and since when. */
type Watched = {
  readonly name: string;
  readonly alive: boolean;
  readonly wasClosed: boolean;
  readonly sinceMs: number;
  readonly wasHeard: boolean;
};
type WatchedPeer = { readonly peer: string; readonly links: readonly Watched[]; readonly open: ReadonlySet<string> };
export type PeerWatch = readonly WatchedPeer[];

export type PeerEvent = { readonly peer: string; readonly event: FaultEvent };
export type PeerStep = { readonly watch: PeerWatch; readonly events: readonly PeerEvent[] };

/** On top of the silence after which a link counts as dead. */
export const HOST_SILENT_MS = 2_000;
export const LINK_DOWN_MS = 5_000;
export const AGENT_AWAY_MS = 30_000;

/** To be called about once a second. `node` is the one that looks. */
export function stepPeers(
  watch: PeerWatch,
  seen: readonly SeenPeer[],
  { node, nowMs }: { readonly node: string; readonly nowMs: number },
): PeerStep {
  const steps = seen.map((each) => {
    const before = watch.find(({ peer }) => peer === each.peer);
    const links = each.links.map((link) => watchLink(before, link, nowMs));
    return judge({ peer: each.peer, links, open: before?.open ?? new Set() }, { node, nowMs });
  });
  return { watch: steps.map((step) => step.after), events: steps.flatMap(({ events }) => events) };
}

function watchLink(before: WatchedPeer | undefined, link: SeenLink, nowMs: number): Watched {
  const known = before?.links.find(({ name }) => name === link.name);
  const isSame = known?.alive === link.alive;
  return {
    name: link.name,
    alive: link.alive,
    // As it was when the link died: a host that comes back resets what its earlier life left open.
    wasClosed: isSame ? known.wasClosed : link.wasClosed,
    sinceMs: isSame ? known.sinceMs : nowMs,
    wasHeard: link.alive || known?.wasHeard === true,
  };
}

type Context = { readonly node: string; readonly nowMs: number };
type Verdict = { readonly fault: Fault & { readonly node: string }; readonly holds: "failed" | "repaired" | "unclear" };

function judge(
  peer: WatchedPeer,
  context: Context,
): { readonly after: WatchedPeer; readonly events: readonly PeerEvent[] } {
  const open = new Set(peer.open);
  const events: PeerEvent[] = [];
  for (const { fault, holds } of listVerdicts(peer, context)) {
    const { node, component, code } = fault;
    const key = `${node} ${component}`;
    if (holds === "failed" && !open.has(key)) {
      open.add(key);
      events.push({ peer: peer.peer, event: { tag: "faulted", ...fault } });
    } else if (holds === "repaired") {
      open.delete(key);
      // Also when it is not known to be open: the agent that saw it fail may have been another.
      events.push({ peer: peer.peer, event: { tag: "repaired", node, component, code } });
    }
  }
  return { after: { ...peer, open }, events };
}

function listVerdicts(peer: WatchedPeer, { node, nowMs }: Context): readonly Verdict[] {
  const ageOf = ({ sinceMs }: Watched): number => nowMs - sinceMs;
  const works = peer.links.some((link) => link.alive && ageOf(link) >= SETTLE_MS);
  const isDown = peer.links.every(({ alive }) => !alive) && peer.links.some(({ wasHeard }) => wasHeard);
  const saidGoodbye = peer.links.some(({ wasClosed }) => wasClosed);
  const isDownFor = (ms: number): boolean => isDown && peer.links.every((link) => ageOf(link) >= ms);
  const verdictOf = (hasFailed: boolean): Verdict["holds"] => (hasFailed ? "failed" : works ? "repaired" : "unclear");
  return [
    { fault: sayHost(peer), holds: verdictOf(!saidGoodbye && isDownFor(HOST_SILENT_MS)) },
    { fault: sayAgent(peer), holds: verdictOf(saidGoodbye && isDownFor(AGENT_AWAY_MS)) },
    ...peer.links.map((link): Verdict => {
      const other = peer.links.some((each) => each !== link && each.alive && ageOf(each) >= LINK_DOWN_MS);
      const hasFailed = !link.alive && ageOf(link) >= LINK_DOWN_MS && other;
      const isBack = link.alive && ageOf(link) >= SETTLE_MS;
      return { fault: sayLink(peer, link, node), holds: hasFailed ? "failed" : isBack ? "repaired" : "unclear" };
    }),
  ];
}

function sayHost({ peer, links }: WatchedPeer): Verdict["fault"] {
  const ways = links.length === 1 ? "on its only link" : `on all ${links.length} links at once`;
  return { node: peer, component: "host", code: "HostSilent", message: `${peer} fell silent ${ways}` };
}

const sayAgent = ({ peer }: WatchedPeer): Verdict["fault"] => ({
  node: peer,
  component: "agent",
  code: "AgentSilent",
  message: `the agent of ${peer} ended and has not come back for ${AGENT_AWAY_MS / 1_000} s`,
});

function sayLink({ peer }: WatchedPeer, { name }: Watched, node: string): Verdict["fault"] {
  const component: FaultComponent = `link/${name}`;
  return {
    node,
    component,
    code: "LinkDown",
    message: `nothing comes over ${name} from ${peer}, while another link works`,
  };
}
