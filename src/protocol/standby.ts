/**
 * The standby's half of the protocol.
 *
 *   waiting --syncBegin--> receiving --first whole epoch--> holding --all links gone, grace over--> asking --granted--> activating
 *      ^  ^                    |                             |  ^  \--guestDied--------------------^  |                    |
 *      |  +------ lost --------+          next syncBegin <---+  |                                     |                activated
 *      |                                                        +---- never delivered, link is back --+                    v
 *                                                        holding <--- refused: the primary went alone +               primary: alone
 *
 * A standby without a primary looks at the record from time to time: it may have become the owner meanwhile, by the end of a
 * hand-over that it missed.
 *
 * A standby that was refused keeps its state, for a delta and because the refusal may be overtaken: as long as it is complete,
 * a record that says InSync can only speak of this very state, so it looks again from time to time while no link is up.
 *
 * `holding` is the only state with a claim to the guest. The first frame of a new session ends it, before a byte of the state
 * is overwritten. While a request may be on its way to the quorum no session is accepted: granted late, it would make us owner
 * of half a copy.
 */
import { unreachable } from "../lib/assert.ts";
import { compareShapes } from "./machine-shape.ts";
import { type Holding, type Message, PROTOCOL_VERSION, type RefusalCode } from "./messages.ts";
import { enterAlone } from "./primary.ts";
import { type SideEvent, type StandbySide, type StandbyState } from "./side-state.ts";
import { Draft } from "./step.ts";

type In<Tag extends StandbyState["tag"]> = Extract<StandbyState, { readonly tag: Tag }>;
type Answer = Extract<SideEvent, { readonly tag: "quorumAnswered" }>;
type Hello = Extract<Message, { readonly tag: "hello" }>;

/** The record names the other side: whatever runs here is of an old term; start a QEMU that waits for state. */
export function enterStandby(draft: Draft): Draft {
  return draft
    .set({ shape: null })
    .becomeStandby({ tag: "waiting", ready: false })
    .add({ tag: "discardOutput" }, { tag: "startGuest", as: "standby" });
}

export function stepStandby(side: StandbySide, event: SideEvent): Draft {
  const draft = new Draft(side);
  const general = inAnyState(draft, event, side.state);
  if (general !== undefined) {
    return general;
  }
  const { state } = side;
  switch (state.tag) {
    case "waiting":
      return whileWaiting(draft, event, state);
    case "receiving":
      return whileReceiving(draft, event, state);
    case "holding":
      return whileHolding(draft, event, state);
    case "asking":
      return whileAsking(draft, event, state);
    case "activating":
      return whileActivating(draft, event);
    default:
      return unreachable(state);
  }
}

function inAnyState(draft: Draft, event: SideEvent, state: StandbyState): Draft | undefined {
  switch (event.tag) {
    case "guestDied":
      return draft.end("restart", "the standby's QEMU died");
    case "stopAsked":
      return state.tag === "asking" || state.tag === "activating" ? undefined : draft.end("stopped", "asked to stop");
    case "received":
      if (event.message.tag === "hello") {
        return whenGreeted(draft, event.link, event.message, state);
      }
      if (event.message.tag === "resume") {
        return whenToResume(draft, event.link, event.message.session, state);
      }
      if (event.message.tag === "guestShutDown" && state.tag !== "activating") {
        return draft.add({ tag: "killGuest" }).end("ended", "the guest switched itself off");
      }
      return undefined;
    default:
      return undefined;
  }
}

function whenGreeted(draft: Draft, link: string, hello: Hello, state: StandbyState): Draft {
  const refusal = decideRefusal(draft, hello, state);
  const term = draft.side.record?.term ?? 0;
  if (refusal !== undefined) {
    draft.send(link, { tag: "refuse", code: refusal.code, message: refusal.message, term });
    return draft.add({ tag: "closeLink", link });
  }
  const holds = heldBy(state);
  if (state.tag === "asking") {
    draft.forgetAsk();
    becomeHolding(draft, state);
  }
  draft.disarm("grace", "retry", "look");
  const { node } = draft.side;
  const disksKnown = holds !== null;
  return draft.send(link, { tag: "welcome", version: PROTOCOL_VERSION, node, term, holds, disksKnown });
}

/** The primary's link is lost. Whoever does not hold its session says so at once: it holds output back until it hears from us. */
function whenToResume(draft: Draft, link: string, session: string, state: StandbyState): Draft {
  if (state.tag !== "holding" || state.session !== session) {
    return draft.send(link, { tag: "stale", session, reason: "this side does not hold the session" });
  }
  return draft
    .becomeStandby({ ...state, link })
    .add({ tag: "discardStaged" })
    .send(link, { tag: "resumed", session, epoch: state.epoch });
}

type Refusal = { readonly code: RefusalCode; readonly message: string };

function decideRefusal(draft: Draft, hello: Hello, state: StandbyState): Refusal | undefined {
  const { guest, shape, record, ask } = draft.side;
  if (hello.version !== PROTOCOL_VERSION) {
    const versions = `version ${hello.version.toString()}, this side ${PROTOCOL_VERSION.toString()}`;
    return { code: "ProtocolVersion", message: `the primary speaks protocol ${versions}: upgrade the older one` };
  }
  if (hello.guest !== guest) {
    return { code: "WrongGuest", message: `this port belongs to guest ${guest}, not ${hello.guest}: correct the port` };
  }
  if (record !== null && hello.term < record.term) {
    const terms = `term ${hello.term.toString()} ended, the record is at term ${record.term.toString()}`;
    return { code: "StaleTerm", message: `${terms}: read the record and come back as the standby` };
  }
  if (state.tag === "activating" || (state.tag === "asking" && (ask === null || ask.underWay || ask.mayBeDelivered))) {
    return { code: "TakeoverPending", message: "a takeover was asked for and is not decided: try again" };
  }
  if (shape === null) {
    return { code: "NotStandby", message: "the standby's QEMU is not ready yet: try again" };
  }
  return compareShapes(hello.shape, shape);
}

function heldBy(state: StandbyState): Holding | null {
  switch (state.tag) {
    case "holding":
    case "asking":
      return { session: state.session, epoch: state.epoch };
    default:
      return null;
  }
}

function becomeHolding(draft: Draft, state: In<"asking">): Draft {
  const { session, term, epoch } = state;
  return draft.becomeStandby({ tag: "holding", session, term, epoch, link: null, expectsGuest: false });
}

function whileWaiting(draft: Draft, event: SideEvent, state: In<"waiting">): Draft {
  switch (event.tag) {
    case "guestReady":
      return draft
        .becomeStandby({ ...state, ready: true })
        .add({ tag: "openLinks", as: "listen" })
        .arm("look");
    case "guestFailed":
      return draft.end("failed", "the standby's QEMU could not be started");
    case "received":
      return whenSyncBegins(draft, event.link, event.message);
    case "timerFired":
      return draft.side.links.length === 0 ? draft.add({ tag: "readRecord" }) : draft;
    case "recordRead":
      return draft.side.record?.owner === draft.side.node
        ? draft.end("restart", "the guest belongs to this side, which has nothing of it but the disks")
        : lookAgain(draft);
    case "recordUnread":
    case "linkDown":
      return lookAgain(draft);
    default:
      return draft;
  }
}

function lookAgain(draft: Draft): Draft {
  return draft.side.links.length === 0 ? draft.arm("look") : draft;
}

function whenSyncBegins(draft: Draft, link: string, message: Message): Draft {
  if (message.tag !== "syncBegin") {
    return draft;
  }
  const { session, ram, disks } = message;
  const term = Number.parseInt(session, 10);
  return draft
    .disarm("grace", "retry", "look")
    .becomeStandby({ tag: "receiving", session, link, term })
    .add({ tag: "discardStaged" }, { tag: "beginReceiving", session, ram, disks });
}

function whileReceiving(draft: Draft, event: SideEvent, state: In<"receiving">): Draft {
  switch (event.tag) {
    case "epochHeld":
      return event.session === state.session ? hold(draft, event.epoch, state) : draft;
    case "linkDown":
      return event.link === state.link ? forget(draft) : draft;
    case "applyFailed":
      return event.session === state.session ? declareStale(draft, state.link, event) : draft;
    case "received":
      return whenSyncBegins(draft, event.link, event.message);
    default:
      return draft;
  }
}

function hold(draft: Draft, epoch: number, from: In<"receiving"> | (In<"holding"> & { readonly link: string })): Draft {
  const { session, link, term } = from;
  const expectsGuest = from.tag === "holding" && from.expectsGuest;
  return draft
    .set({ epoch: Math.max(epoch, draft.side.epoch) })
    .becomeStandby({ tag: "holding", session, link, term, epoch, expectsGuest })
    .send(link, { tag: "ack", session, epoch })
    .add({ tag: "commitEpoch", epoch });
}

function forget(draft: Draft): Draft {
  return lookAgain(draft.becomeStandby({ tag: "waiting", ready: true }).add({ tag: "discardStaged" }));
}

/** Half applied is worth nothing: never ask, tell the primary, start over. */
function declareStale(
  draft: Draft,
  link: string | null,
  event: { readonly session: string; readonly reason: string },
): Draft {
  if (link !== null) {
    draft.send(link, { tag: "stale", session: event.session, reason: event.reason });
  }
  return draft.end("failed", `the standby cannot follow: ${event.reason}`);
}

function whileHolding(draft: Draft, event: SideEvent, state: In<"holding">): Draft {
  switch (event.tag) {
    case "epochHeld":
      return event.session === state.session && state.link !== null
        ? hold(draft, event.epoch, { ...state, link: state.link })
        : draft;
    case "linkDown":
      return whenLinkLost(draft, event, state);
    case "timerFired":
      return draft.side.links.length === 0 ? beginAsking(draft, state) : draft;
    case "applyFailed":
      return event.session === state.session ? declareStale(draft, state.link, event) : draft;
    case "received":
      return whenToldWhileHolding(draft, event.link, event.message, state);
    default:
      return draft;
  }
}

function whenLinkLost(draft: Draft, event: Extract<SideEvent, { tag: "linkDown" }>, state: In<"holding">): Draft {
  if (event.link === state.link) {
    draft.becomeStandby({ ...state, link: null }).add({ tag: "discardStaged" });
  }
  return draft.side.links.length === 0 ? draft.arm("grace").add({ tag: "announceGuest" }) : draft;
}

function whenToldWhileHolding(draft: Draft, link: string, message: Message, state: In<"holding">): Draft {
  switch (message.tag) {
    case "syncBegin":
      return whenSyncBegins(draft, link, message);
    case "expectGuest":
      return message.session === state.session
        ? draft.becomeStandby({ ...state, expectsGuest: true }).add({ tag: "announceGuest" })
        : draft;
    case "guestDied":
      return beginAsking(draft.add({ tag: "announceGuest" }), state);
    case "handOver": {
      if (message.session !== state.session || message.epoch !== state.epoch) {
        return draft;
      }
      // The grant is certain. The record is read for its version, on which the next requests are made.
      return activate(draft.add({ tag: "announceGuest" }), message.term, state).add({ tag: "readRecord" });
    }
    default:
      return draft;
  }
}

/** The record is read first: it may have changed since the primary told us, and only its newest version can be granted. */
function beginAsking(draft: Draft, state: In<"holding">): Draft {
  const { session, term, epoch } = state;
  draft.disarm("grace", "retry", "look").becomeStandby({ tag: "asking", session, term, epoch });
  return draft.add({ tag: "discardStaged" }, { tag: "readRecord" });
}

function whileAsking(draft: Draft, event: SideEvent, state: In<"asking">): Draft {
  switch (event.tag) {
    case "recordRead":
      return draft.side.ask === null ? decideByRecord(draft, state) : draft;
    case "recordUnread":
      return draft.side.ask === null ? giveUpOrRetry(draft, state) : draft;
    case "quorumAnswered":
      return draft.side.ask?.request.requestId === event.requestId ? whenAnswered(draft, event, state) : draft;
    case "timerFired":
      return event.timer === "retry" ? askAgain(draft) : draft;
    default:
      return draft;
  }
}

function decideByRecord(draft: Draft, state: In<"asking">): Draft {
  const { record, node } = draft.side;
  if (record?.owner === node) {
    return activate(draft, record.term, state); // Handed over, or granted to an answer that was lost.
  }
  if (record?.peer === node && record.peerState === "InSync") {
    return draft.askFor({ tag: "takeOver" });
  }
  return becomeHolding(draft.forgetAsk(), state).arm("look");
}

function whenAnswered(draft: Draft, event: Answer, state: In<"asking">): Draft {
  switch (event.outcome.tag) {
    case "granted":
    case "refused":
      return decideByRecord(draft.set({ ask: null }), state);
    default:
      return giveUpOrRetry(draft, state);
  }
}

/** With a link back and nothing on its way to the quorum the primary may be answered again. */
function giveUpOrRetry(draft: Draft, state: In<"asking">): Draft {
  const mayBeDelivered = draft.side.ask?.mayBeDelivered ?? false;
  if (!mayBeDelivered && draft.side.links.length > 0) {
    return becomeHolding(draft.forgetAsk(), state);
  }
  return draft.arm("retry");
}

function askAgain(draft: Draft): Draft {
  const { ask } = draft.side;
  if (ask === null) {
    return draft.add({ tag: "readRecord" });
  }
  return draft.set({ ask: { ...ask, underWay: true } }).add({ tag: "askQuorum", request: ask.request });
}

function activate(draft: Draft, term: number, state: In<"holding"> | In<"asking">): Draft {
  const { session, epoch } = state;
  return draft
    .forgetAsk()
    .disarm("grace")
    .becomeStandby({ tag: "activating", term, epoch, session })
    .add({ tag: "discardStaged" }, { tag: "activate", epoch, term });
}

function whileActivating(draft: Draft, event: SideEvent): Draft {
  switch (event.tag) {
    case "activated":
      return enterAlone(draft, null).add({ tag: "openLinks", as: "dial" });
    case "activateFailed":
      return draft.end("failed", "the guest could not be activated");
    default:
      return draft;
  }
}
