/**
 * The primary's half of the protocol.
 *
 *                    +------------------------- lost, nothing declared -----------------------+
 *                    v                                                                        |
 *   booting --> alone --welcome--> syncing --copied, first epoch--> declaring --InSync--> protected --switchover--> handingOver
 *                 ^ ^                 |                                 |                     |                         |
 *                 | +---- lost -------+                                 +------- lost --------+                      granted
 *                 |                                                                v                                    v
 *   coldWaiting --+------------------ granted runAlone ------------------- arbitrating --owner is another--> ended(fenced)
 *
 * A side that is to be released gives a standby up as if it were lost, and from `alone` ends: its output is open, and nobody else
 * may take over until an engine of this side declares again.
 *
 * In a session of HighAvailability the guest is paused and its output held at a loss, before the quorum is asked; it goes on with
 * the grant alone. A switchover copies its memory first, and from then on the session is one of FaultTolerant. So it is when that
 * becomes the mode; the other way round the standby is given up and synchronised anew, by the difference.
 *
 * In a session of FaultTolerant the end of the link that carries the data is no loss while another link is up: the session goes on
 * there from the last epoch that the standby holds, protected all the time; what it has not acknowledged is sent again.
 *
 * "Lost" is otherwise the end of the link that carries the data, a session that failed, a standby that calls itself stale, or an
 * epoch that waits too long for its acknowledgement. Then the primary holds its output and asks the quorum; it never decides by
 * itself.
 *
 * A declareInSync that was sent may have been carried out whatever we heard, so from then on only `runAlone` makes output free, or
 * `replacePeer`, which is the same in a pair that has got another peer.
 * The change of mind is safe because every request names the version it was made on: of the two, one is refused.
 */
import { unreachable } from "../lib/assert.ts";
import { type Message, PROTOCOL_VERSION } from "./messages.ts";
import {
  type EpochProgress,
  type FoundGuestState,
  type PrimarySide,
  type LastHeld,
  type PrimaryState,
  type SideEvent,
} from "./side-state.ts";
import { Draft } from "./step.ts";

type In<Tag extends PrimaryState["tag"]> = Extract<PrimaryState, { readonly tag: Tag }>;
type Answer = Extract<SideEvent, { readonly tag: "quorumAnswered" }>;
type Session = In<"declaring"> | In<"protected"> | In<"handingOver">;

/**
 * The record names us: what we found of the guest decides how to begin. A record that says Stale is no leave to run alone: a
 * declareInSync of the engine before us may still be on its way, and only a new version of the record makes it void.
 */
export function enterOwner(draft: Draft, found: FoundGuestState): Draft {
  if (found === "running") {
    // Its output may still be open. In HighAvailability the standby may boot it; else the engine before us may have died between
    // stopping the guest and letting it go on.
    const mayBootElsewhere = draft.side.mode === "HighAvailability" && draft.side.record?.peerState === "InSync";
    draft.add({ tag: "holdOutput" }, { tag: mayBootElsewhere ? "pauseGuest" : "resumeGuest" });
    return arbitrate(draft.add({ tag: "openLinks", as: "dial" }), null, mayBootElsewhere);
  }
  if (draft.side.record?.peerState === "InSync") {
    // The standby may hold the memory that is lost here: it is better than our disks alone.
    return draft.becomePrimary({ tag: "coldWaiting", asking: false }).arm("coldGrace").arm("look");
  }
  return askToRunAlone(draft.becomePrimary({ tag: "coldWaiting", asking: true }));
}

/** The guest runs here, the quorum knows that no other may, and a standby is wanted. */
export function enterAlone(draft: Draft, last: LastHeld | null): Draft {
  return greetAll(draft.becomePrimary({ tag: "alone", last }).add({ tag: "openOutput" }, { tag: "announceGuest" }));
}

export function stepPrimary(side: PrimarySide, event: SideEvent): Draft {
  const draft = new Draft(side);
  const { state } = side;
  const general = inAnyState(draft, event, state);
  if (general !== undefined) {
    return general;
  }
  switch (state.tag) {
    case "alone":
      return whileAlone(draft, event, state);
    case "syncing":
      return whileSyncing(draft, event, state);
    case "declaring":
      return whileDeclaring(draft, event, state);
    case "protected":
      return whileProtected(draft, event, state);
    case "arbitrating":
      return whileArbitrating(draft, event, state);
    case "handingOver":
      return whileHandingOver(draft, event, state);
    case "coldWaiting":
      return whileColdWaiting(draft, event, state);
    case "booting":
      return whileBooting(draft, event);
    default:
      return unreachable(state);
  }
}

/** What means the same in every state of a primary. */
function inAnyState(draft: Draft, event: SideEvent, state: PrimaryState): Draft | undefined {
  switch (event.tag) {
    case "guestDied":
      draft.sendAll({ tag: "guestDied", epoch: draft.side.epoch });
      return draft.add({ tag: "discardOutput" }).end("restart", "QEMU died");
    case "guestShutDown":
      draft.sendAll({ tag: "guestShutDown" });
      return draft.end("ended", "the guest switched itself off");
    case "releaseAsked":
      return whenReleaseAsked(draft, state);
    case "linkUp":
      return greet(draft, event.link);
    case "received":
      return event.message.tag === "refuse" ? whenRefused(draft, event.link, event.message) : undefined;
    case "recordRead":
      return draft.side.record?.owner === draft.side.node ? undefined : fence(draft);
    default:
      return undefined;
  }
}

/** Links that outlived a session: their greeting was answered long ago, so ask for another welcome. */
function greetAll(draft: Draft): Draft {
  draft.side.links.forEach((link) => greet(draft, link));
  return draft;
}

function greet(draft: Draft, link: string): Draft {
  const { guest, node, record, shape } = draft.side;
  if (shape === null || record === null) {
    return draft.add({ tag: "closeLink", link });
  }
  return draft.send(link, { tag: "hello", version: PROTOCOL_VERSION, guest, node, term: record.term, shape });
}

function whenRefused(draft: Draft, link: string, message: Extract<Message, { tag: "refuse" }>): Draft {
  draft.add({ tag: "reportRefusal", code: message.code, message: message.message });
  if (message.code === "StaleTerm") {
    draft.add({ tag: "readRecord" });
  }
  return draft.add({ tag: "closeLink", link });
}

/** Our term is over: whatever runs here must not run, whatever waits must not leave. */
function fence(draft: Draft): Draft {
  const term = draft.side.record?.term ?? 0;
  return draft
    .add({ tag: "killGuest" }, { tag: "discardOutput" })
    .end("fenced", `the guest belongs to ${draft.side.record?.owner ?? "another node"} since term ${term.toString()}`);
}

/** Where the quorum has the last word already, it is waited for: the event comes again. */
function whenReleaseAsked(draft: Draft, state: PrimaryState): Draft {
  switch (state.tag) {
    case "alone":
      return release(draft);
    case "syncing":
      if (state.held) {
        return draft;
      }
      draft.add({ tag: "endSession", session: state.session, acked: 0 });
      return release(closeData(draft, state.link));
    case "declaring":
      return whenLostInSession(draft, state, state.asked || state.held);
    case "protected":
      return whenLostInSession(draft, state, true);
    case "arbitrating":
    case "handingOver":
    case "coldWaiting":
    case "booting":
      return draft;
    default:
      return unreachable(state);
  }
}

function release(draft: Draft): Draft {
  return draft.add({ tag: "openOutput" }).end("released", "the guest runs on here without protection, as asked");
}

function boot(draft: Draft): Draft {
  return draft
    .disarm("retry", "look", "coldGrace")
    .becomePrimary({ tag: "booting" })
    .add({ tag: "startGuest", as: "primary" });
}

function whileBooting(draft: Draft, event: SideEvent): Draft {
  switch (event.tag) {
    case "guestReady":
      enterAlone(draft, null);
      return draft.add({ tag: "resumeGuest" }, { tag: "openLinks", as: "dial" });
    case "guestFailed":
      return draft.end("failed", "the guest could not be started");
    case "stopAsked":
      return draft.end("stopped", "asked to stop");
    default:
      return draft;
  }
}

function whileAlone(draft: Draft, event: SideEvent, state: In<"alone">): Draft {
  if (event.tag === "received" && event.message.tag === "welcome") {
    return beginSync(draft, event.link, event.message, { last: state.last, held: false });
  }
  return event.tag === "stopAsked" ? draft.end("stopped", "asked to stop; the guest runs on alone") : draft;
}

function beginSync(
  draft: Draft,
  link: string,
  welcome: Extract<Message, { tag: "welcome" }>,
  from: { readonly last: LastHeld | null; readonly held: boolean },
): Draft {
  const { mode } = draft.side;
  const sessionCount = draft.side.sessionCount + 1;
  const term = draft.side.record?.term ?? 0;
  const session = `${term.toString()}.${draft.side.nonce}.${sessionCount.toString()}`;
  const { holds } = welcome;
  // Only what was dirtied since the last session's acknowledged epoch is known; an epoch acknowledged unheard is newer still.
  const isKnown = holds !== null && from.last?.session === holds.session && holds.epoch >= from.last.epoch;
  const delta = isKnown ? ({ tag: "delta", ...holds } as const) : undefined;
  const memory = from.last?.mode === "FaultTolerant" && delta !== undefined ? delta : ({ tag: "full" } as const);
  const ram = mode === "FaultTolerant" ? memory : ({ tag: "firmware" } as const);
  const disks = delta !== undefined && welcome.disksKnown ? delta : ({ tag: "hashes" } as const);
  return draft
    .set({ sessionCount })
    .becomePrimary({ tag: "syncing", session, link, mode, held: from.held, copied: false })
    .send(link, { tag: "syncBegin", session, ram, disks })
    .add({ tag: "beginSync", session, link, ram, disks });
}

function whileSyncing(draft: Draft, event: SideEvent, state: In<"syncing">): Draft {
  if (isLoss(event, state)) {
    draft.add({ tag: "endSession", session: state.session, acked: 0 });
    closeData(draft, state.link);
    // What was copied of this session is worth nothing, and of an earlier one the standby has overwritten a part.
    return state.held ? arbitrate(draft, null, false) : enterAlone(draft, null);
  }
  switch (event.tag) {
    case "copied":
      return event.session !== state.session
        ? draft
        : draft
            .becomePrimary({ ...state, copied: true })
            .add({ tag: "startEpochs", session: state.session, first: draft.side.epoch + 1 });
    case "captured":
      return event.session === state.session ? whenFirstCaptured(draft, event.epoch, state) : draft;
    case "quorumAnswered":
      return state.held ? whenAnsweredWhileHeld(draft, event, state) : draft;
    case "timerFired":
      return event.timer === "retry" ? askAgain(draft) : draft;
    case "stopAsked":
      return draft.end("stopped", "asked to stop before the standby was in sync");
    default:
      return draft;
  }
}

function whenFirstCaptured(draft: Draft, epoch: number, state: In<"syncing">): Draft {
  const epochs = { first: epoch, captured: epoch, acked: epoch - 1 };
  return draft
    .set({ epoch })
    .forgetAsk()
    .becomePrimary({
      tag: "declaring",
      session: state.session,
      link: state.link,
      mode: state.mode,
      held: state.held,
      epochs,
      asked: false,
    })
    .arm("ackOverdue");
}

/** The runAlone of an arbitration that the returning standby interrupted. */
function whenAnsweredWhileHeld(draft: Draft, event: Answer, state: In<"syncing">): Draft {
  if (isNotOurs(draft, event)) {
    return draft;
  }
  switch (event.outcome.tag) {
    case "granted":
      draft.forgetAsk().becomePrimary({ ...state, held: false });
      // The first epoch may be in the making: what opens now would stay open after its stop. It will be released soon.
      draft.add({ tag: "announceGuest" });
      return state.copied ? draft : draft.add({ tag: "openOutput" });
    case "refused":
      return ownsStill(draft) ? askToRunAlone(draft) : fence(draft);
    default:
      return draft.arm("retry");
  }
}

function whileDeclaring(draft: Draft, event: SideEvent, state: In<"declaring">): Draft {
  if (isLoss(event, state)) {
    return whenLostInSession(draft, state, state.asked || state.held);
  }
  switch (event.tag) {
    case "captured":
      return whenCaptured(draft, event, state);
    case "received":
      return whenAcked(draft, event.message, state, (epochs) => {
        const next = { ...state, epochs, asked: true };
        draft.becomePrimary(next);
        if (state.asked) {
          return draft;
        }
        if (state.mode === "HighAvailability") {
          draft.add({ tag: "leaseOutput" }); // Asked, it may be granted whatever we hear.
        }
        return draft.askFor({ tag: "declareInSync", epoch: epochs.acked });
      });
    case "quorumAnswered":
      return whenDeclareAnswered(draft, event, state);
    case "timerFired":
      return event.timer === "retry" ? askAgain(draft) : draft;
    case "stopAsked":
      return draft.end("stopped", "asked to stop before the standby was in sync");
    default:
      return draft;
  }
}

function whenDeclareAnswered(draft: Draft, event: Answer, state: In<"declaring">): Draft {
  if (isNotOurs(draft, event)) {
    return draft;
  }
  switch (event.outcome.tag) {
    case "granted": {
      const { session, link, mode, epochs } = state;
      const { version } = event.outcome.record;
      const next = { tag: "protected", session, link, mode, epochs, isResuming: false } as const;
      draft.forgetAsk().becomePrimary(next).send(link, { tag: "inSync", session, epoch: epochs.acked, version });
      draft.add({ tag: "announceGuest" });
      return followMode(draft, next);
    }
    case "refused":
      return ownsStill(draft) ? draft.askFor({ tag: "declareInSync", epoch: state.epochs.acked }) : fence(draft);
    default:
      return draft.arm("retry");
  }
}

function whileProtected(draft: Draft, event: SideEvent, state: In<"protected">): Draft {
  if (isLoss(event, state)) {
    const [link] = event.tag === "linkDown" && isResumable(state) ? draft.side.links : [];
    return link === undefined ? whenLostInSession(draft, state, true) : resume(draft, link, state);
  }
  switch (event.tag) {
    case "captured":
      return whenCaptured(draft, event, state);
    case "received":
      return whenTold(draft, event, state, (epochs) => draft.becomePrimary({ ...state, epochs, isResuming: false }));
    case "modeAsked":
      return followMode(draft, state);
    case "copied":
      return isCopyOfMemory(draft, event, state) ? startCheckpoints(draft, state) : draft;
    case "switchoverAsked":
    case "stopAsked":
      draft.becomePrimary({ ...state, tag: "handingOver", finalEpoch: 0, asked: false, lost: false });
      return state.mode === "HighAvailability"
        ? draft.add({ tag: "copyMemory", session: state.session })
        : captureFinal(draft, state);
    default:
      return draft;
  }
}

/** What was copied before the first epoch is not sent again: it has to be there. */
function isResumable({ mode, epochs }: In<"protected">): boolean {
  return mode === "FaultTolerant" && epochs.acked >= epochs.first;
}

/** What the standby says is due as soon as an acknowledgement would be. */
function resume(draft: Draft, link: string, state: In<"protected">): Draft {
  return draft
    .becomePrimary({ ...state, link, isResuming: true })
    .arm("ackOverdue")
    .send(link, { tag: "resume", session: state.session });
}

type Received = Extract<SideEvent, { tag: "received" }>;
type Claimed = In<"protected"> | In<"handingOver">;
type Follow = (epochs: EpochProgress) => Draft;

/** How far the standby is. While that was asked on a new link nothing else counts. */
function whenTold(draft: Draft, { link, message }: Received, state: Claimed, follow: Follow): Draft {
  if (!state.isResuming) {
    return whenAcked(draft, message, state, follow);
  }
  return message.tag === "resumed" && message.session === state.session && link === state.link
    ? whenResumed(draft, message.epoch, state, follow)
    : draft;
}

/** Its word is an acknowledgement too: one of before may be lost with its link. */
function whenResumed(draft: Draft, epoch: number, { session, link, epochs }: Claimed, follow: Follow): Draft {
  if (epoch < epochs.acked || epoch > epochs.captured) {
    return draft; // It cannot be: the answer is overdue.
  }
  if (epoch > epochs.acked) {
    draft.add({ tag: "releaseOutput", throughEpoch: epoch });
  }
  draft.add({ tag: "resumeStream", session, link, from: epoch + 1 });
  if (epoch < epochs.captured) {
    draft.arm("ackOverdue");
  } else {
    draft.disarm("ackOverdue");
  }
  return follow({ ...epochs, acked: epoch });
}

/** From a session of the other mode to one of ours, the guest running. */
function followMode(draft: Draft, state: In<"protected">): Draft {
  if (state.mode === draft.side.mode) {
    return draft;
  }
  return state.mode === "HighAvailability"
    ? draft.add({ tag: "copyMemory", session: state.session })
    : whenLostInSession(draft, state, true);
}

/** Of a session that is already a FaultTolerant one, or shall not become one any more, it is nothing new. */
function isCopyOfMemory(
  draft: Draft,
  event: Extract<SideEvent, { tag: "copied" }>,
  state: In<"protected"> | In<"handingOver">,
): boolean {
  const isWanted = state.tag === "handingOver" || draft.side.mode === "FaultTolerant";
  return event.session === state.session && state.mode === "HighAvailability" && isWanted;
}

/** The standby has the guest's memory but for what the next epoch brings: from here on this is a session of FaultTolerant. */
function startCheckpoints(draft: Draft, state: In<"protected"> | In<"handingOver">): Draft {
  const first = draft.side.epoch + 1;
  return draft
    .becomePrimary({ ...state, mode: "FaultTolerant", epochs: { ...state.epochs, first } })
    .add({ tag: "startEpochs", session: state.session, first });
}

function whenCaptured(draft: Draft, event: Extract<SideEvent, { tag: "captured" }>, state: Session): Draft {
  if (event.session !== state.session || event.epoch <= state.epochs.captured) {
    return draft;
  }
  draft.set({ epoch: event.epoch });
  draft.becomePrimary({ ...state, epochs: { ...state.epochs, captured: event.epoch } });
  return draft.side.timers.includes("ackOverdue") ? draft : draft.arm("ackOverdue");
}

/** Releases what an acknowledgement covers. Acknowledgements of other sessions and old ones change nothing. */
function whenAcked(draft: Draft, message: Message, state: Session, whenNew: (epochs: EpochProgress) => Draft): Draft {
  const { session, epochs } = state;
  if (message.tag !== "ack" || message.session !== session) {
    return draft;
  }
  if (message.epoch <= epochs.acked || message.epoch > epochs.captured) {
    return draft;
  }
  draft.add({ tag: "releaseOutput", throughEpoch: message.epoch }).disarm("ackOverdue");
  if (message.epoch < epochs.captured) {
    draft.arm("ackOverdue");
  }
  return whenNew({ ...epochs, acked: message.epoch });
}

function isLoss(event: SideEvent, state: { readonly session: string; readonly link: string }): boolean {
  switch (event.tag) {
    case "linkDown":
      return event.link === state.link;
    case "received":
      return event.message.tag === "stale" && event.message.session === state.session;
    case "sessionFailed":
      return event.session === state.session;
    case "timerFired":
      return event.timer === "ackOverdue";
    default:
      return false;
  }
}

function whenLostInSession(draft: Draft, state: Session, mayBeInSync: boolean): Draft {
  const { session, epochs, mode } = state;
  const last = lastOf(state);
  const mustStand = mayBeInSync && mode === "HighAvailability";
  if (mustStand) {
    // In this order: the end of the session answers writes that the standby may lack.
    draft.add({ tag: "holdOutput" }, { tag: "pauseGuest" });
  }
  draft.forgetAsk().disarm("ackOverdue").add({ tag: "endSession", session, acked: epochs.acked });
  closeData(draft, state.link);
  return mayBeInSync ? arbitrate(draft, last, mustStand) : enterAlone(draft, last);
}

/** A first epoch that was never acknowledged leaves nothing that the standby is known to hold. */
function lastOf({ session, epochs, mode }: Session): LastHeld | null {
  return epochs.acked >= epochs.first ? { session, epoch: epochs.acked, mode } : null;
}

/** The stream's link is dialled anew, so that nothing of the old session can follow. */
function closeData(draft: Draft, link: string): Draft {
  return draft.side.links.includes(link)
    ? draft.set({ links: draft.side.links.filter((other) => other !== link) }).add({ tag: "closeLink", link })
    : draft;
}

function arbitrate(draft: Draft, last: LastHeld | null, paused: boolean): Draft {
  draft.becomePrimary({ tag: "arbitrating", last, paused });
  if (mayYield(draft)) {
    draft.forgetAsk().arm("yield");
  } else {
    askToRunAlone(draft);
  }
  return greetAll(paused ? draft : draft.arm("heldTooLong"));
}

/** Whether the standby might do better and could take over, as far as we know. */
function mayYield({ side: { isImpaired, record } }: Draft): boolean {
  return isImpaired && record?.peerState === "InSync";
}

function whileArbitrating(draft: Draft, event: SideEvent, state: In<"arbitrating">): Draft {
  switch (event.tag) {
    case "quorumAnswered":
      return isNotOurs(draft, event) ? draft : whenArbitrated(draft, event, state);
    case "timerFired":
      if (event.timer === "heldTooLong") {
        return draft.becomePrimary({ ...state, paused: true }).add({ tag: "pauseGuest" });
      }
      if (event.timer === "yield") {
        return draft.side.ask === null ? askToRunAlone(draft) : draft;
      }
      return event.timer === "retry" ? askAgain(draft) : draft;
    case "received":
      // In HighAvailability there is no way to run with the output held.
      return event.message.tag === "welcome" && draft.side.mode === "FaultTolerant"
        ? whenBackBeforeQuorum(draft, event.link, event.message, state)
        : draft;
    case "stopAsked":
      return draft.end("stopped", "asked to stop while waiting for the quorum");
    default:
      return draft;
  }
}

function whenArbitrated(draft: Draft, event: Answer, state: In<"arbitrating">): Draft {
  switch (event.outcome.tag) {
    case "granted":
      draft.forgetAsk().disarm("heldTooLong");
      enterAlone(draft, state.last);
      return state.paused ? draft.add({ tag: "resumeGuest" }) : draft;
    case "refused":
      return ownsStill(draft) ? askToRunAlone(draft) : fence(draft);
    default:
      return draft.arm("retry");
  }
}

/** The standby is back and the quorum still silent: protect again under held output rather than stand still. */
function whenBackBeforeQuorum(
  draft: Draft,
  link: string,
  welcome: Extract<Message, { tag: "welcome" }>,
  state: In<"arbitrating">,
): Draft {
  draft.disarm("heldTooLong", "yield");
  if (state.paused) {
    draft.add({ tag: "resumeGuest" });
  }
  if (draft.side.ask === null) {
    askToRunAlone(draft); // Nobody is let go first any more.
  }
  return beginSync(draft, link, welcome, { last: state.last, held: true });
}

function whileHandingOver(draft: Draft, event: SideEvent, state: In<"handingOver">): Draft {
  if (!state.lost && isLoss(event, state)) {
    return whenLostHandingOver(draft, state);
  }
  switch (event.tag) {
    case "copied":
      return isCopyOfMemory(draft, event, state) ? startCheckpoints(captureFinal(draft, state), state) : draft;
    case "captured":
      whenCaptured(draft, event, state);
      return event.final && event.session === state.session
        ? draft.becomePrimary({
            ...(draft.side.state as PrimarySide["state"] & typeof state),
            finalEpoch: event.epoch,
          })
        : draft;
    case "received":
      return whenTold(draft, event, state, (epochs) => {
        const isAll = state.finalEpoch !== 0 && epochs.acked >= state.finalEpoch;
        draft.becomePrimary({ ...state, epochs, asked: isAll, isResuming: false });
        // Switches have just seen the guest here again, by what was released.
        expectGuest(draft, state);
        return isAll ? draft.askFor({ tag: "handOver", epoch: epochs.acked }) : draft;
      });
    case "quorumAnswered":
      if (isNotOurs(draft, event)) {
        return draft;
      }
      return state.lost ? whenLostHandOverAnswered(draft, event, state) : whenHandOverAnswered(draft, event, state);
    case "timerFired":
      return event.timer === "retry" ? askAgain(draft) : draft;
    default:
      return draft;
  }
}

/** It stands still from here on, and what clients send is to be waiting where it goes on. */
function captureFinal(draft: Draft, state: Pick<Session, "link" | "session">): Draft {
  return expectGuest(draft.add({ tag: "captureFinal" }), state);
}

const expectGuest = (draft: Draft, { link, session }: Pick<Session, "link" | "session">): Draft =>
  draft.send(link, { tag: "expectGuest", session });

function whenLostHandingOver(draft: Draft, state: In<"handingOver">): Draft {
  if (state.asked) {
    // It may have been granted, or may be yet: only the quorum's answer to another request ends this.
    const { session, epochs } = state;
    draft.disarm("ackOverdue", "retry").add({ tag: "endSession", session, acked: epochs.acked });
    closeData(draft, state.link);
    return askToRunAlone(draft.becomePrimary({ ...state, lost: true }));
  }
  const last = lastOf(state);
  return whenLostInSession(draft, state, true).becomePrimary({ tag: "arbitrating", last, paused: true });
}

function whenHandOverAnswered(draft: Draft, event: Answer, state: In<"handingOver">): Draft {
  const { outcome } = event;
  const { session, epochs, link } = state;
  switch (outcome.tag) {
    case "granted":
      draft.send(link, { tag: "handOver", session, epoch: epochs.acked, term: outcome.record.term });
      return fence(draft);
    case "refused":
      if (!ownsStill(draft)) {
        return fence(draft);
      }
      draft.add({ tag: "endSession", session, acked: epochs.acked });
      closeData(draft, link);
      return arbitrate(draft.forgetAsk(), lastOf(state), true);
    default:
      return draft.arm("retry");
  }
}

/** Of handOver and runAlone, both asked on one version, one was carried out: the record says which. */
function whenLostHandOverAnswered(draft: Draft, event: Answer, state: In<"handingOver">): Draft {
  switch (event.outcome.tag) {
    case "granted":
      enterAlone(draft.forgetAsk(), lastOf(state));
      return draft.add({ tag: "resumeGuest" });
    case "refused":
      return ownsStill(draft) ? askToRunAlone(draft) : fence(draft);
    default:
      return draft.arm("retry");
  }
}

function whileColdWaiting(draft: Draft, event: SideEvent, state: In<"coldWaiting">): Draft {
  switch (event.tag) {
    case "timerFired":
      if (event.timer === "coldGrace") {
        return askToRunAlone(draft.becomePrimary({ tag: "coldWaiting", asking: true }));
      }
      return state.asking ? askAgain(draft) : draft.add({ tag: "readRecord" });
    case "recordRead":
    case "recordUnread":
      return state.asking ? draft : draft.arm("look");
    case "quorumAnswered":
      return isNotOurs(draft, event) ? draft : whenColdAnswered(draft, event);
    case "stopAsked":
      return draft.end("stopped", "asked to stop");
    default:
      return draft;
  }
}

function whenColdAnswered(draft: Draft, event: Answer): Draft {
  switch (event.outcome.tag) {
    case "granted":
      return boot(draft.forgetAsk());
    case "refused":
      if (ownsStill(draft)) {
        return askToRunAlone(draft);
      }
      return fence(draft); // Taken over: the next engine is the standby.
    default:
      return draft.arm("retry");
  }
}

/**
 * Leave to go on without a standby. A record that names another peer than ours is of a pair that was made anew: it gets our peer in
 * the same breath, and names no other that may take over.
 */
function askToRunAlone(draft: Draft): Draft {
  const { record, peer } = draft.side;
  return draft.askFor(record === null || record.peer === peer ? { tag: "runAlone" } : { tag: "replacePeer", peer });
}

/** The request that waits for its answer, once more, unless it is being carried or no longer wanted. */
function askAgain(draft: Draft): Draft {
  const { ask } = draft.side;
  if (ask === null || ask.underWay) {
    return draft;
  }
  return draft.set({ ask: { ...ask, underWay: true } }).add({ tag: "askQuorum", request: ask.request });
}

function isNotOurs(draft: Draft, event: Answer): boolean {
  return draft.side.ask?.request.requestId !== event.requestId;
}

function ownsStill(draft: Draft): boolean {
  return draft.side.record?.owner === draft.side.node;
}
