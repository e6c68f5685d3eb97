/**
 * One side of a pair: one engine process, one guest. Pure: `step` takes the side and an event and returns the side and what
 * the shell has to do.
 *
 *   starting --record: owner is me--> primary (primary.ts) --term is old--> ended(fenced)
 *      |    \--record: peer is me---> standby (standby.ts) --activated----> primary
 *      |     \-no record: the first primary creates it, the other waits
 *      +--neither--> ended(failed)
 *
 * `ended` is final for the process: its agent starts a new engine, which reads the record and becomes what that says.
 *
 * Invariants, checked by test/sim and test/model:
 * - Output passes freely only in `alone` and in `syncing` that is not held: the record says Stale and names us, so nobody else
 *   may take over, and only we can change that.
 * - Otherwise output leaves only up to an epoch that the standby acknowledged in this session.
 * - A standby asks for the guest only with a complete state, and drops that claim before its first byte is overwritten.
 * - Terms and epochs never go back.
 *
 * A session of HighAvailability copies disks and no memory. Its epochs are the guest's writes as they come, and what waits for an
 * acknowledgement is the answer to a write, not what the guest sends. What it rests on:
 * - The guest learns that a write is done only when the standby has it, or while its output is held (so nobody can be told), or when
 *   the record says Stale and names us. So a standby that boots has every write that anybody outside could have heard of.
 * - Output passes by a lease that ends before the standby's patience does (timing.ts), whatever becomes of the engine; at a loss it
 *   is held and the guest paused, before the quorum is asked. This is the one rule that needs clocks that run equally fast, and
 *   only for what the guest says from memory: of a write its lease says nothing that the standby does not know.
 * - A standby with the disks alone has a claim like any other, and boots the guest instead of letting it go on.
 */
import { unreachable } from "../lib/assert.ts";
import { type QuorumRecord } from "./quorum-record.ts";
import { enterOwner, stepPrimary } from "./primary.ts";
import { enterStandby, stepStandby } from "./standby.ts";
import { type PrimarySide, type Side, type SideEvent, type StandbySide, type Step } from "./side-state.ts";
import { Draft } from "./step.ts";

export type SideIdentity = Pick<Side, "guest" | "node" | "peer" | "createsRecord" | "mode" | "nonce">;

/** A side before its first event. */
export function startSide(identity: SideIdentity): Side {
  return {
    ...identity,
    record: null,
    ask: null,
    links: [],
    timers: [],
    shape: null,
    epoch: 0,
    sessionCount: 0,
    isImpaired: false,
    state: { tag: "starting", found: "none" },
  };
}

/** One event in, the next side and what to do about it out. */
export function step(side: Side, event: SideEvent): Step {
  if (side.state.tag === "ended") {
    return { side, effects: [] };
  }
  const noted = note(side, event);
  if (!("role" in noted.state)) {
    return whileStarting(new Draft(noted), event).finish();
  }
  return isPrimary(noted) ? stepPrimary(noted, event).finish() : stepStandby(noted as StandbySide, event).finish();
}

export function isPrimary(side: Side): side is PrimarySide {
  return "role" in side.state && side.state.role === "primary";
}

export function isStandby(side: Side): side is StandbySide {
  return "role" in side.state && side.state.role === "standby";
}

/** What every state keeps track of alike: links, timers that fired, the newest record, the fate of the request. */
function note(side: Side, event: SideEvent): Side {
  switch (event.tag) {
    case "linkUp":
      return { ...side, links: [...side.links.filter((link) => link !== event.link), event.link] };
    case "linkDown":
      return { ...side, links: side.links.filter((link) => link !== event.link) };
    case "timerFired":
      return { ...side, timers: side.timers.filter((timer) => timer !== event.timer) };
    case "guestReady":
      return { ...side, shape: event.shape };
    case "started":
      return { ...side, shape: event.shape };
    case "recordRead":
      return { ...side, record: newer(side.record, event.record) };
    case "quorumAnswered":
      return noteAnswer(side, event);
    case "healthChanged":
      return { ...side, isImpaired: event.isImpaired };
    case "modeAsked":
      return { ...side, mode: event.mode };
    default:
      return side;
  }
}

function noteAnswer(side: Side, event: Extract<SideEvent, { tag: "quorumAnswered" }>): Side {
  const { outcome } = event;
  const record = "record" in outcome ? newer(side.record, outcome.record ?? null) : side.record;
  if (side.ask?.request.requestId !== event.requestId) {
    return { ...side, record };
  }
  const mayBeDelivered = side.ask.mayBeDelivered || outcome.tag === "unknown";
  return { ...side, record, ask: { ...side.ask, underWay: false, mayBeDelivered } };
}

function newer(known: QuorumRecord | null, read: QuorumRecord | null): QuorumRecord | null {
  return read === null || (known !== null && known.version >= read.version) ? known : read;
}

function whileStarting(draft: Draft, event: SideEvent): Draft {
  const { state } = draft.side;
  switch (event.tag) {
    case "started":
      return draft.become({ tag: "starting", found: event.found }).add({ tag: "readRecord" });
    case "recordUnread":
      return draft.arm("retry");
    case "timerFired":
      return draft.add({ tag: "readRecord" });
    case "recordRead":
      return event.record === null ? withoutRecord(draft) : enterRole(draft, event.record);
    case "quorumAnswered":
      return whenCreateAnswered(draft, event);
    case "guestDied":
      return state.tag === "starting" ? draft.become({ tag: "starting", found: "none" }) : draft;
    case "stopAsked":
      return draft.end("stopped", "asked to stop");
    default:
      return draft;
  }
}

function withoutRecord(draft: Draft): Draft {
  return draft.side.createsRecord ? draft.askFor({ tag: "create", peer: draft.side.peer }) : draft.arm("look");
}

function whenCreateAnswered(draft: Draft, event: Extract<SideEvent, { tag: "quorumAnswered" }>): Draft {
  draft.set({ ask: null });
  const { outcome } = event;
  switch (outcome.tag) {
    case "granted":
      return enterRole(draft, outcome.record);
    case "refused":
      return outcome.record === undefined ? draft.arm("retry") : enterRole(draft, outcome.record);
    case "unreachable":
    case "unknown":
      return draft.arm("retry");
    default:
      return unreachable(outcome);
  }
}

function enterRole(draft: Draft, record: QuorumRecord): Draft {
  const { node, state } = draft.side;
  const found = state.tag === "starting" ? state.found : "none";
  draft.disarm("retry", "look");
  if (record.owner === node) {
    return enterOwner(draft, found);
  }
  if (record.peer === node) {
    return enterStandby(draft);
  }
  const pair = `${record.owner} and ${record.peer}`;
  return draft.end("failed", `the quorum keeps this guest on ${pair}, not on ${node}: correct the assignment`);
}
