/** Rules broken on purpose, one at a time. The simulator must find every one of them; what it cannot find it does not check. */
import { decideQuorumRequest } from "../../src/protocol/quorum-record.ts";
import { step } from "../../src/protocol/side.ts";
import { type Effect, type Side, type SideEvent, type Step } from "../../src/protocol/side-state.ts";
import { type NodeName } from "./network.ts";
import { PRODUCTION, type Rules, type World } from "./world.ts";

function withStep(broken: (side: Side, event: SideEvent) => Step): Rules {
  return { ...PRODUCTION, step: broken };
}

const openOutput: Effect = { tag: "openOutput" };

/** The outcome of a request as if the quorum had granted it. */
function pretendGranted(side: Side, event: SideEvent, change: "takeOver" | "runAlone"): SideEvent {
  const { ask, record } = side;
  const isHopeless = event.tag === "quorumAnswered" && ["unknown", "unreachable"].includes(event.outcome.tag);
  if (!isHopeless || ask?.request.change.tag !== change || ask.request.requestId !== event.requestId) {
    return event;
  }
  const decision = decideQuorumRequest(record ?? undefined, ask.request);
  return decision.tag === "granted" ? { ...event, outcome: decision } : event;
}

export const mutants: Readonly<Record<string, Rules>> = {
  "a stale standby may take over": {
    ...PRODUCTION,
    decide: (record, request) =>
      decideQuorumRequest(record === undefined ? record : { ...record, peerState: "InSync" }, request),
  },
  "the quorum does not look at the version": {
    ...PRODUCTION,
    decide: (record, request) => decideQuorumRequest(record, { ...request, expectedVersion: record?.version ?? 0 }),
  },
  "no answer counts as leave to take over": withStep((side, event) =>
    step(side, pretendGranted(side, event, "takeOver")),
  ),
  "no answer counts as leave to run alone": withStep((side, event) =>
    step(side, pretendGranted(side, event, "runAlone")),
  ),
  "output leaves with the capture, not with the acknowledgement": withStep((side, event) => {
    const stepped = step(side, event);
    const release: Effect[] = event.tag === "captured" ? [{ tag: "releaseOutput", throughEpoch: event.epoch }] : [];
    return { ...stepped, effects: [...stepped.effects, ...release] };
  }),
  "an epoch is acknowledged before all of it is here": withStep((side, event) => {
    const { state } = side;
    const isNext = state.tag === "holding" && event.tag === "epochHeld";
    const stepped = step(side, event);
    const effects = stepped.effects.map((effect): Effect => {
      const isAck = isNext && effect.tag === "send" && effect.message.tag === "ack";
      return isAck ? { ...effect, message: { ...effect.message, epoch: effect.message.epoch + 1 } as never } : effect;
    });
    return { ...stepped, effects };
  }),
  "a lost standby that may be in sync is forgotten": withStep((side, event) => {
    const { state } = side;
    const isLost = event.tag === "linkDown" && "link" in state && state.link === event.link;
    return state.tag === "declaring" && isLost
      ? step({ ...side, state: { ...state, asked: false } }, event)
      : step(side, event);
  }),
  "a new engine believes a record that says Stale": withStep((side, event) => {
    const { state } = side;
    const stepped = step(side, event);
    const isStale =
      event.tag === "recordRead" && event.record?.owner === side.node && event.record.peerState === "Stale";
    if (state.tag !== "starting" || state.found !== "running" || !isStale) {
      return stepped;
    }
    return {
      side: { ...stepped.side, ask: null, timers: [], state: { role: "primary", tag: "alone", last: null } },
      effects: [{ tag: "resumeGuest" }, { tag: "openLinks", as: "dial" }, { tag: "openOutput" }],
    };
  }),
  "any state the standby holds will do for a delta": withStep((side, event) => {
    const { state } = side;
    const holds = event.tag === "received" && event.message.tag === "welcome" ? event.message.holds : null;
    return state.tag === "alone" && holds !== null
      ? step({ ...side, state: { ...state, last: { ...holds, mode: side.mode } } }, event)
      : step(side, event);
  }),
  "a standby keeps its claim while a new copy overwrites it": withStep((side, event) => {
    const stepped = step(side, event);
    const begins = event.tag === "received" && event.message.tag === "syncBegin";
    if (!begins || side.state.tag !== "holding" || stepped.side.state.tag !== "receiving") {
      return stepped;
    }
    const { session, link, term } = stepped.side.state;
    const state = {
      role: "standby",
      tag: "holding",
      session,
      link,
      term,
      epoch: side.state.epoch,
      expectsGuest: false,
    } as const;
    return { ...stepped, side: { ...stepped.side, state } };
  }),
  "a fenced engine leaves its guest and its output alone": withStep((side, event) => {
    const stepped = step(side, event);
    const isFenced = stepped.side.state.tag === "ended" && stepped.side.state.reason === "fenced";
    return isFenced && side.state.tag === "arbitrating"
      ? { side: { ...side, state: { role: "primary", tag: "alone", last: null } }, effects: [{ tag: "openOutput" }] }
      : stepped;
  }),
};

/** In a pair of HighAvailability. */
export const highAvailabilityMutants: Readonly<Record<string, Rules>> = {
  "a write is answered before the standby has it": withStep((side, event) => {
    const stepped = step(side, event);
    const release: Effect[] = event.tag === "captured" ? [{ tag: "releaseOutput", throughEpoch: event.epoch }] : [];
    return { ...stepped, effects: [...stepped.effects, ...release] };
  }),
  "output passes without a lease": withStep((side, event) => {
    const { effects, ...stepped } = step(side, event);
    return { ...stepped, effects: effects.map((effect) => (effect.tag === "leaseOutput" ? openOutput : effect)) };
  }),
  "a guest goes on before the quorum has spoken": withStep((side, event) => {
    const stepped = step(side, event);
    const isLost = side.state.tag === "protected" && stepped.side.state.tag === "arbitrating";
    return isLost ? { ...stepped, effects: [...stepped.effects, { tag: "resumeGuest" }, openOutput] } : stepped;
  }),
};

/**
 * For rules that matter only when faults meet in one way, what has to go wrong; seeds vary the rest. The simulator finds these
 * by chance as well, one in a few thousand seeds.
 */
export const plans: Readonly<Record<string, (world: World) => void>> = {
  "a new engine believes a record that says Stale": ({ quorum, faults }) => {
    quorum.slowMs = 2_000;
    faults.arm({ step: "declareInSync", when: "after", fault: "engineKilled", at: "here", delayMs: 5, skips: 0 });
  },
  "no answer counts as leave to take over": (world) => {
    whenProtected(world, () => {
      cutFromQuorum(world, "a", "to");
      world.faults.arm({ step: "takeOver", when: "before", fault: "quorumCut", at: "here", delayMs: 0, skips: 0 });
      world.faults.apply("allLinksCut", "a");
    });
  },
  "a standby keeps its claim while a new copy overwrites it": (world) => {
    const { hosts, faults, random } = world;
    whenProtected(world, () => {
      const { engine } = hosts.a;
      const state = engine?.side.state;
      if (state === undefined || !("session" in state)) {
        return;
      }
      const { session } = state;
      // The primary cannot ask, so it syncs again over the other link while the record still says InSync.
      cutFromQuorum(world, "a", "to");
      const delayMs = 10 + random.below(80);
      faults.arm({ step: "beginSync", when: "after", fault: "powerLost", at: "here", delayMs, skips: 0 });
      engine?.enter(() => {
        engine.post({ tag: "sessionFailed", session });
      });
    });
  },
};

function cutFromQuorum({ hosts, clock }: World, node: NodeName, way: "to" | "from"): void {
  hosts[node].quorumPath[way] = false;
  clock.after(4_000, () => {
    hosts[node].quorumPath[way] = true;
  });
}

function whenProtected(world: World, strike: () => void): void {
  world.clock.after(20, () => {
    if (world.isProtected()) {
      strike();
    } else {
      whenProtected(world, strike);
    }
  });
}
