/**
 * Everything that may happen next in a {@link World}: what the shells, the network and the quorum owe in the end (fair moves),
 * and what goes wrong, is asked by people or done by the guest, within a budget.
 *
 * Nothing here knows of time: any armed timer may fire before anything else happens.
 */
import { startSide } from "../../src/protocol/side.ts";
import { type QuorumRecord, type QuorumRequest } from "../../src/protocol/quorum-record.ts";
import { type QuorumOutcome, type TimerName } from "../../src/protocol/side-state.ts";
import { Shell, type Rules, Violation } from "./shell.ts";
import {
  type Budget,
  type Call,
  copyWorld,
  type Engine,
  HOSTS,
  type HostIndex,
  type Item,
  type Link,
  NODES,
  other,
  withPlace,
  type World,
} from "./world.ts";

export type Fault =
  | "linkLost"
  | "engineCrash"
  | "guestCrash"
  | "hostCrash"
  | "answerLost"
  | "requestLost"
  | "duplicate"
  /** A timer that is long fires although nothing is broken. */
  | "haste"
  | "applyFailed"
  | "guestFailed"
  | "shutDown"
  /** Something of a node is broken: it lets the other one go first. */
  | "impaired"
  /** The record goes on at the other quorum: nothing of it changes but the version (seats.ts). */
  | "moved";

/** Nothing that may happen at the same time can tell whether an eager move was made before or after it. */
export type Move = {
  readonly says: string;
  readonly isFair: boolean;
  readonly isEager?: boolean;
  readonly isInstead?: boolean;
  readonly make: (shell: Shell) => void;
};

/** Elsewhere it changes nothing. The last one is kept for the end, which is in `alone`. */
const RELEASED_FROM: ReadonlySet<string> = new Set(["alone", "syncing", "declaring", "protected"]);

const SHAPE = { qemuVersion: "", machine: "", ramBlocks: [], disks: [], devices: [] };

/** The worlds one move away. */
export function listMoves(world: World, faults: ReadonlySet<Fault>): Move[] {
  const moves: Move[] = [];
  if (world.budget.modes > 0) {
    budgeted(moves, "modes", "somebody changes the mode", (shell) => {
      shell.world.mode = world.mode === "FaultTolerant" ? "HighAvailability" : "FaultTolerant";
    });
  }
  for (const host of HOSTS) {
    addEngineMoves(moves, world, { host, faults });
    addLeaseMoves(moves, world, host);
    addGuestMoves(moves, world, host);
    if (world.budget.faults > 0) {
      addHostFaults(moves, world, { host, faults });
    }
  }
  for (const link of world.links) {
    addLinkMoves(moves, world, link, faults);
  }
  world.calls.forEach((_, index) => {
    addCallMoves(moves, world, index, faults);
  });
  const { record } = world;
  if (record !== null && world.budget.faults > 0 && faults.has("moved")) {
    fault(moves, "the record moves to the other quorum", (shell) => {
      const version = record.version + 1;
      storeRecord(shell.world, { ...record, version, lastRequestId: `move:${version}` });
    });
  }
  const eager = moves.find(({ isEager }) => isEager === true);
  // A QEMU that does not start is the one alternative to a move that is eager.
  return eager === undefined ? moves : [eager, ...moves.filter(({ isInstead }) => isInstead === true)];
}

/** The world after `move`. Throws a {@link Violation} where a rule is broken. */
export function makeMove(world: World, move: Move, rules: Rules): World {
  const next = copyWorld(world);
  move.make(new Shell(next, rules));
  forgetIdleStrays(next);
  return next;
}

function fair(moves: Move[], says: string, make: (shell: Shell) => void): void {
  moves.push({ says, isFair: true, make });
}

/** See {@link Move}: only this one is made, which spares all the orders in which the others could come. */
function eager(moves: Move[], says: string, make: (shell: Shell) => void): void {
  moves.push({ says, isFair: true, isEager: true, make });
}

function fault(moves: Move[], says: string, make: (shell: Shell) => void): void {
  budgeted(moves, "faults", says, make);
}

function budgeted(moves: Move[], from: keyof Budget, says: string, make: (shell: Shell) => void): void {
  moves.push({
    says: from === "faults" ? `FAULT: ${says}` : says,
    isFair: false,
    make: (shell) => {
      const { budget } = shell.world;
      shell.world.budget = { ...budget, [from]: budget[from] - 1 };
      make(shell);
    },
  });
}

/** A stray made on a version that is past can only be refused, and nobody hears it; of equal ones, one is enough. */
function forgetIdleStrays(world: World): void {
  const version = world.record?.version ?? 0;
  const kept = world.calls.filter((call, index) => {
    return (
      call.tag !== "stray" || (call.request.expectedVersion === version && !hasEarlier(world, index, call.request))
    );
  });
  if (kept.length < world.calls.length) {
    world.calls = kept;
  }
}

function hasEarlier({ calls }: World, index: number, { requestId }: QuorumRequest): boolean {
  return calls.slice(0, index).some((call) => call.tag === "stray" && call.request.requestId === requestId);
}

// Engines.

type HostFaults = { readonly host: HostIndex; readonly faults: ReadonlySet<Fault> };

function addEngineMoves(moves: Move[], world: World, { host, faults }: HostFaults): void {
  const { engine, guest, resting } = world.hosts[host];
  const node = NODES[host];
  if (engine === null) {
    if (!resting) {
      eager(moves, `${node}: an engine starts, finds ${foundState(world, host)}`, (shell) => {
        startEngine(shell, host);
      });
    }
    return;
  }
  if (engine.deathUnheard) {
    fair(moves, `${node}: hears that QEMU died`, (shell) => {
      shell.setEngine(host, { deathUnheard: false });
      shell.post(host, { tag: "guestDied" });
    });
  }
  if (engine.starting !== null) {
    eager(moves, `${node}: QEMU is ready as ${engine.starting}`, (shell) => {
      bringGuest(shell, host, engine.starting);
    });
  }
  if (engine.activating && guest !== null) {
    fair(moves, `${node}: activated`, (shell) => {
      activate(shell, host);
      shell.post(host, { tag: "activated" });
    });
  }
  if (engine.side.mode !== world.mode) {
    fair(moves, `${node}: hears that the mode is ${world.mode}`, (shell) => {
      shell.post(host, { tag: "modeAsked", mode: world.mode });
    });
  }
  addReplicationMoves(moves, world, host);
  addTimerMoves(moves, world, { host, faults });
  const mayRelease = world.budget.releases === 1 ? engine.side.state.tag === "alone" : world.budget.releases > 0;
  if (mayRelease && RELEASED_FROM.has(engine.side.state.tag)) {
    budgeted(moves, "releases", `${node}: release asked`, (shell) => {
      shell.post(host, { tag: "releaseAsked" });
    });
  }
  if (world.budget.switchovers > 0 && engine.side.state.tag === "protected") {
    budgeted(moves, "switchovers", `${node}: switchover asked`, (shell) => {
      shell.post(host, { tag: "switchoverAsked" });
    });
  }
}

function foundState(world: World, host: HostIndex): "none" | "incoming" | "running" {
  const { guest } = world.hosts[host];
  switch (guest?.mode) {
    case "incoming":
      return "incoming";
    case "running":
    case "paused":
      return "running";
    case "prelaunch":
    case undefined:
      return "none";
  }
}

function startEngine(shell: Shell, host: HostIndex): void {
  const { world } = shell;
  const node = NODES[host];
  const nonce = freshNonce(world, node);
  const side = startSide({
    guest: "g",
    node,
    peer: NODES[other(host)],
    createsRecord: host === 0,
    mode: world.mode,
    nonce,
  });
  const engine: Engine = {
    ...{ side, opens: null, replication: null, base: null, reception: null },
    ...{ starting: null, activating: false, deathUnheard: false },
  };
  const found = foundState(world, host);
  shell.putEngine(host, engine);
  shell.post(host, { tag: "started", found, shape: found === "none" ? null : SHAPE });
}

/** A nonce that nothing in the world remembers is as good as one that never was. */
function freshNonce(world: World, node: string): string {
  const remembered = new Set<string>();
  const remember = (text: string): void => {
    for (const word of text.split(/[.:]/)) {
      remembered.add(word);
    }
  };
  remember(world.record?.lastRequestId ?? "");
  for (const { engine, guest } of world.hosts) {
    remember(engine === null ? "" : `${engine.side.nonce}:${engine.side.ask?.request.requestId ?? ""}`);
    remember(engine !== null && "session" in engine.side.state ? engine.side.state.session : "");
    remember(lastSession(engine));
    remember(
      `${engine?.replication?.session ?? ""}:${engine?.base?.session ?? ""}:${engine?.reception?.session ?? ""}`,
    );
    remember(guest?.holds?.session ?? "");
  }
  world.links
    .flatMap(({ queues }) => queues.flat())
    .forEach((item) => {
      remember("session" in item ? item.session : item.tag === "welcome" ? (item.holds?.session ?? "") : "");
    });
  for (const call of world.calls) {
    remember(call.tag === "read" ? "" : call.request.requestId);
  }
  let count = 1;
  while (remembered.has(`${node}${count}`)) {
    count += 1;
  }
  return `${node}${count}`;
}

function lastSession(engine: Engine | null): string {
  const state = engine?.side.state;
  return state !== undefined && "last" in state ? (state.last?.session ?? "") : "";
}

function bringGuest(shell: Shell, host: HostIndex, as: Engine["starting"]): void {
  const { world } = shell;
  const isPrimary = as === "primary";
  let past = "";
  let life = "";
  if (isPrimary) {
    const isFirst = world.livesCount === 0;
    life = newLife(world);
    past = isFirst ? "" : `!${life}`;
    if (!isFirst) {
      world.coldBoots += 1;
      world.released = past;
    }
  }
  shell.setEngine(host, { starting: null });
  const mode = isPrimary ? "prelaunch" : "incoming";
  shell.setGuest(host, { mode, life, past, gate: "held", gone: past.length, holds: null });
  shell.post(host, { tag: "guestReady", shape: SHAPE });
}

function newLife(world: World): string {
  world.livesCount += 1;
  return "pqrstuvwxyz".charAt(world.livesCount - 1);
}

function activate(shell: Shell, host: HostIndex): void {
  const past = shell.world.hosts[host].guest?.holds?.past ?? "";
  shell.setEngine(host, { activating: false, reception: null });
  const life = newLife(shell.world);
  shell.setGuest(host, { mode: "running", life, past, gate: "held", gone: past.length, holds: null });
}

function addReplicationMoves(moves: Move[], world: World, host: HostIndex): void {
  const { engine, guest } = world.hosts[host];
  const replication = engine?.replication ?? null;
  if (replication === null || guest === null) {
    return;
  }
  const node = NODES[host];
  if (replication.phase === "copying") {
    eager(moves, `${node}: copied`, (shell) => {
      shell.setReplication(host, { phase: "copied" });
      shell.post(host, { tag: "copied", session: replication.session });
    });
  }
  if (replication.phase !== "epochs" || replication.stopped) {
    return;
  }
  if (replication.copiesMemory) {
    fair(moves, `${node}: memory copied`, (shell) => {
      shell.setReplication(host, { copiesMemory: false });
      if (guest.past.length > replication.capturedLength) {
        captureEpoch(shell, host);
      }
      shell.post(host, { tag: "copied", session: replication.session });
    });
  }
  const capture = (shell: Shell): void => {
    captureEpoch(shell, host);
  };
  const { next, first, mode, capturedLength } = replication;
  if (mode === "HighAvailability") {
    // As soon as the guest has written; nobody can tell whether that was before or after what others do.
    if (next === first || guest.past.length > capturedLength) {
      fair(moves, `${node}: ends epoch ${next}`, capture);
    }
    return;
  }
  const { finalWanted } = replication;
  const says = `${node}: captures epoch ${next}${finalWanted ? ", the last" : ""}`;
  if (next === first || finalWanted) {
    fair(moves, says, capture);
  } else if (world.budget.epochs > 0 && replication.marks.length < 2) {
    budgeted(moves, "epochs", says, capture);
  }
}

function captureEpoch(shell: Shell, host: HostIndex): void {
  const { engine, guest } = shell.world.hosts[host];
  const replication = engine?.replication ?? null;
  if (replication === null || guest === null) {
    return;
  }
  const { session, link, next: epoch, mode } = replication;
  const { past } = guest;
  const final = replication.finalWanted && mode === "FaultTolerant";
  shell.changeGuest(host, {
    gate: guest.gate === "open" && mode === "FaultTolerant" ? "held" : guest.gate,
    mode: final ? "paused" : guest.mode,
  });
  const marks = [...replication.marks, { epoch, length: past.length }];
  shell.setReplication(host, { next: epoch + 1, marks, stopped: final, capturedLength: past.length });
  shell.push(host, link, { tag: "epochFrames", session, epoch, past });
  shell.post(host, { tag: "captured", session, epoch, final });
}

function addTimerMoves(moves: Move[], world: World, { host, faults }: HostFaults): void {
  const { engine } = world.hosts[host];
  for (const timer of engine?.side.timers ?? []) {
    const make = (shell: Shell): void => {
      shell.post(host, { tag: "timerFired", timer });
    };
    if (isTooEarly(world, host, timer)) {
      if (world.budget.faults > 0 && faults.has("haste")) {
        fault(moves, `${NODES[host]}: ${timer} fires before its time`, make);
      }
    } else {
      fair(moves, `${NODES[host]}: ${timer} fires`, make);
    }
  }
}

/** Timers that are so long that they fire only when something else is broken. */
function isTooEarly(world: World, host: HostIndex, timer: TimerName): boolean {
  // A lease is over before the other side's patience is.
  if (timer === "ackOverdue" || world.hosts[other(host)].guest?.gate === "leased") {
    return true;
  }
  // An owner without its guest waits for the standby as long as that one may be granted what it asks for.
  const state = world.hosts[other(host)].engine?.side.state.tag;
  const mayTakeOver = world.record?.peerState === "InSync" || state === "activating";
  return timer === "coldGrace" && mayTakeOver && (state === "holding" || state === "asking" || state === "activating");
}

// Guests.

function addGuestMoves(moves: Move[], world: World, host: HostIndex): void {
  const { guest } = world.hosts[host];
  const replication = world.hosts[host].engine?.replication ?? null;
  // There what is sent tells of a write, which has its answer with its acknowledgement; without an engine it has none.
  const isAwaited = replication?.mode === "HighAvailability" && replication.phase === "epochs";
  if (guest?.mode === "running" && world.budget.outputs > 0) {
    budgeted(moves, "outputs", `${NODES[host]}: the guest sends (${guest.gate})`, (shell) => {
      const past = guest.past + guest.life;
      shell.changeGuest(host, { past });
      if (guest.gate === "open" && !isAwaited) {
        shell.release(host, past.length, "gate");
      } else if (guest.gate === "closed") {
        shell.changeGuest(host, { gone: past.length });
      }
    });
  }
}

/** Every heartbeat that comes back renews a lease. */
function addLeaseMoves(moves: Move[], world: World, host: HostIndex): void {
  const { engine, guest } = world.hosts[host];
  const hears =
    engine !== null &&
    world.hosts[other(host)].engine !== null &&
    world.links.some(({ up, closing }) => up[0] && up[1] && !closing[0] && !closing[1]);
  if (guest?.gate === "leased" && !hears) {
    fair(moves, `${NODES[host]}: the lease is over`, (shell) => {
      shell.changeGuest(host, { gate: "lapsed" });
    });
  }
  if (guest?.gate === "lapsed" && hears) {
    fair(moves, `${NODES[host]}: the lease is renewed`, (shell) => {
      shell.changeGuest(host, { gate: "leased" });
    });
  }
}

function addHostFaults(moves: Move[], world: World, { host, faults }: HostFaults): void {
  const { engine, guest } = world.hosts[host];
  const node = NODES[host];
  if (engine !== null && faults.has("engineCrash")) {
    fault(moves, `${node}: the engine dies`, (shell) => {
      shell.dropEngine(host);
    });
    if (engine.activating && guest !== null) {
      fault(moves, `${node}: the engine dies, the guest already runs`, (shell) => {
        activate(shell, host);
        shell.dropEngine(host);
      });
    }
  }
  if (guest !== null && faults.has("guestCrash")) {
    fault(moves, `${node}: QEMU dies`, (shell) => {
      shell.setGuest(host, null);
      if (engine !== null) {
        shell.setEngine(host, { deathUnheard: true });
      }
    });
  }
  if (engine !== null && guest !== null && faults.has("hostCrash")) {
    fault(moves, `${node}: the host dies`, (shell) => {
      shell.dropEngine(host);
      shell.setGuest(host, null);
    });
  }
  if (engine !== null) {
    addEngineFaults(moves, engine, { host, faults, runs: guest?.mode === "running" });
  }
}

function addEngineFaults(
  moves: Move[],
  { side, starting, activating }: Engine,
  { host, faults, runs }: { readonly host: HostIndex; readonly faults: ReadonlySet<Fault>; readonly runs: boolean },
): void {
  const node = NODES[host];
  if (faults.has("impaired") && !side.isImpaired && !activating) {
    fault(moves, `${node}: is impaired`, (shell) => {
      shell.post(host, { tag: "healthChanged", isImpaired: true });
    });
  }
  if (faults.has("applyFailed") && (side.state.tag === "receiving" || side.state.tag === "holding")) {
    const { session } = side.state;
    fault(moves, `${node}: cannot apply`, (shell) => {
      shell.post(host, { tag: "applyFailed", session, reason: "disk full" });
    });
  }
  if (faults.has("guestFailed") && starting !== null) {
    const failing: Move[] = [];
    fault(failing, `${node}: QEMU does not start`, (shell) => {
      shell.setEngine(host, { starting: null });
      shell.post(host, { tag: "guestFailed" });
    });
    moves.push(...failing.map((move) => ({ ...move, isInstead: true })));
  }
  if (faults.has("guestFailed") && activating) {
    fault(moves, `${node}: activation fails`, (shell) => {
      shell.setEngine(host, { activating: false });
      shell.post(host, { tag: "activateFailed" });
    });
  }
  if (faults.has("shutDown") && runs) {
    fault(moves, `${node}: the guest switches itself off`, (shell) => {
      shell.post(host, { tag: "guestShutDown" });
    });
  }
}

// Links.

function addLinkMoves(moves: Move[], world: World, link: Link, faults: ReadonlySet<Fault>): void {
  const [first, second] = [world.hosts[0].engine, world.hosts[1].engine];
  const dialer = first?.opens === "dial" ? 0 : second?.opens === "dial" ? 1 : null;
  if (dialer !== null && world.hosts[other(dialer)].engine?.opens === "listen" && !link.up[dialer]) {
    fair(moves, `link ${link.name} connects`, (shell) => {
      connect(shell, link.name, dialer);
    });
  }
  for (const host of HOSTS) {
    addEndMoves(moves, link, host);
    if (link.up[host] && link.up[other(host)] && world.budget.faults > 0 && faults.has("linkLost")) {
      fault(moves, `link ${link.name} is cut, ${NODES[host]} notices first`, (shell) => {
        noticeDown(shell, link.name, host);
      });
    }
  }
}

function addEndMoves(moves: Move[], link: Link, host: HostIndex): void {
  if (!link.up[host]) {
    return;
  }
  const [item] = link.queues[host];
  if (item !== undefined) {
    const add = item.tag === "inSync" ? eager : fair;
    add(moves, `${NODES[host]}: receives ${describeItem(item)} on ${link.name}`, (shell) => {
      deliver(shell, link, host);
    });
  }
  const isEnding = link.closing[host] || link.closing[other(host)] || !link.up[other(host)];
  if (isEnding) {
    fair(moves, `${NODES[host]}: link ${link.name} is down`, (shell) => {
      noticeDown(shell, link.name, host);
    });
  }
}

function connect(shell: Shell, name: string, dialer: HostIndex): void {
  const listener = other(dialer);
  if (shell.world.links.some((link) => link.name === name && link.up[listener])) {
    noticeDown(shell, name, listener);
  }
  if (shell.world.hosts[listener].engine?.opens !== "listen") {
    return;
  }
  shell.setLink(name, { up: [true, true], closing: [false, false], queues: [[], []] });
  shell.post(listener, { tag: "linkUp", link: name });
  if (shell.world.hosts[dialer].engine !== null) {
    shell.post(dialer, { tag: "linkUp", link: name });
  }
}

function noticeDown(shell: Shell, name: string, host: HostIndex): void {
  shell.dropEnd(name, host);
  shell.post(host, { tag: "linkDown", link: name, by: "silent" });
}

function deliver(shell: Shell, { name, queues }: Link, host: HostIndex): void {
  const [item, ...rest] = queues[host];
  if (item === undefined) {
    return;
  }
  shell.setLink(name, { queues: withPlace(queues, host, rest) });
  if (item.tag === "epochFrames") {
    receiveEpoch(shell, { host, link: name, item });
  } else {
    shell.post(host, { tag: "received", link: name, message: item });
  }
}

/** Frames carry no session: they belong to the one that began on this link. */
function receiveEpoch(
  shell: Shell,
  {
    host,
    link,
    item,
  }: { readonly host: HostIndex; readonly link: string; readonly item: Extract<Item, { tag: "epochFrames" }> },
): void {
  const { engine, guest } = shell.world.hosts[host];
  const state = engine?.side.state;
  const reception = engine?.reception ?? null;
  if (state === undefined || !("link" in state) || state.link !== link || reception === null || guest === null) {
    return;
  }
  if (reception.session !== item.session) {
    throw new Violation(`${NODES[host]} takes frames of ${item.session} for ${reception.session}`);
  }
  const { session, epoch, past } = item;
  if (guest.holds?.session === session && guest.holds.epoch + 1 !== epoch) {
    throw new Violation(`${NODES[host]} receives epoch ${epoch} after ${guest.holds.epoch}`);
  }
  shell.setEngine(host, { reception: { session, staged: { session, epoch, past } } });
  shell.post(host, { tag: "epochHeld", session, epoch });
}

function describeItem(item: Item): string {
  switch (item.tag) {
    case "epochFrames":
      return `all of epoch ${item.epoch} ("${item.past}")`;
    case "ack":
      return `ack ${item.epoch}`;
    case "refuse":
      return `refuse ${item.code}`;
    case "hello":
      return `hello of term ${item.term}`;
    case "welcome":
      return `welcome, holds ${item.holds === null ? "nothing" : `epoch ${item.holds.epoch} of ${item.holds.session}`}`;
    case "syncBegin":
      return `syncBegin ${item.session} (${item.ram.tag})`;
    default:
      return item.tag;
  }
}

// The quorum.

function addCallMoves(moves: Move[], world: World, index: number, faults: ReadonlySet<Fault>): void {
  const call = world.calls[index];
  if (call === undefined) {
    return;
  }
  switch (call.tag) {
    case "read":
      return addReadMoves(moves, world, { call, index, faults });
    case "ask":
      return addAskMoves(moves, world, { call, index, faults });
    case "stray":
      moves.push({
        says: `quorum: carries out a stray ${describeRequest(call.request)}`,
        isFair: false,
        make: (shell) => {
          decide(shell, call.request);
          setCall(shell, index, null);
        },
      });
      return;
  }
}

type CallOf<Tag extends Call["tag"]> = {
  readonly call: Extract<Call, { readonly tag: Tag }>;
  readonly index: number;
  readonly faults: ReadonlySet<Fault>;
};

function addReadMoves(moves: Move[], world: World, { call, index, faults }: CallOf<"read">): void {
  const { host, records, twice } = call;
  for (const record of records) {
    fair(moves, `${NODES[host]}: reads ${describeRecord(record)}`, (shell) => {
      setCall(shell, index, twice ? { ...call, twice: false } : null);
      shell.post(host, { tag: "recordRead", record });
    });
  }
  if (world.budget.faults > 0 && faults.has("requestLost")) {
    fault(moves, `${NODES[host]}: cannot read the record`, (shell) => {
      setCall(shell, index, null);
      shell.post(host, { tag: "recordUnread" });
    });
  }
}

function addAskMoves(moves: Move[], world: World, { call, index, faults }: CallOf<"ask">): void {
  const { host, request, decision } = call;
  const asks = describeRequest(request);
  if (decision === null) {
    fair(moves, `quorum: decides ${asks}`, (shell) => {
      setCall(shell, index, { ...call, decision: decide(shell, request) });
    });
  } else {
    fair(moves, `${NODES[host]}: is told that ${asks} is ${decision.tag}`, (shell) => {
      answer(shell, { call, index, faults }, decision);
    });
  }
  if (world.budget.faults === 0) {
    return;
  }
  if (faults.has("answerLost")) {
    fault(moves, `${NODES[host]}: no answer to ${asks}`, (shell) => {
      answer(shell, { call, index, faults }, { tag: "unknown" });
      if (decision === null) {
        shell.world.calls = [...shell.world.calls, { tag: "stray", request }];
      }
    });
  }
  if (faults.has("requestLost") && decision === null) {
    fault(moves, `${NODES[host]}: cannot reach the quorum for ${asks}`, (shell) => {
      answer(shell, { call, index, faults }, { tag: "unreachable" });
    });
  }
  if (faults.has("duplicate") && decision === null) {
    fault(moves, `the network repeats ${asks}`, (shell) => {
      shell.world.calls = [...shell.world.calls, { tag: "stray", request }];
    });
  }
}

function answer(shell: Shell, { call, index }: CallOf<"ask">, outcome: QuorumOutcome): void {
  setCall(shell, index, null);
  shell.post(call.host, { tag: "quorumAnswered", requestId: call.request.requestId, outcome });
}

function setCall(shell: Shell, index: number, call: Call | null): void {
  const { calls } = shell.world;
  shell.world.calls = calls.flatMap((old, place) => (place !== index ? [old] : call === null ? [] : [call]));
}

function storeRecord(world: World, record: QuorumRecord): void {
  world.record = record;
  world.calls = world.calls.map((call) =>
    call.tag === "read" ? { ...call, records: [...call.records, record] } : call,
  );
}

function decide(shell: Shell, request: QuorumRequest): ReturnType<Rules["decide"]> {
  const decision = shell.decide(shell.world.record ?? undefined, request);
  if (decision.tag === "granted") {
    const term = shell.world.record?.term ?? 0;
    if (decision.record.term < term) {
      throw new Violation(`the term goes back from ${term} to ${decision.record.term}`);
    }
    if (decision.changed) {
      storeRecord(shell.world, decision.record);
    }
  }
  return decision;
}

function describeRequest({ by, change, expectedVersion }: QuorumRequest): string {
  return `${change.tag} of ${by} on version ${expectedVersion}`;
}

function describeRecord(record: QuorumRecord | null): string {
  return record === null
    ? "none"
    : `version ${record.version}, term ${record.term}, owner ${record.owner}, ${record.peerState}`;
}
