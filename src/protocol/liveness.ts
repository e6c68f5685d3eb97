/**
 * Heartbeats over every replication link: who is still there, and how far away.
 *
 * Each side sends a heartbeat on each link every `heartbeatMs`, with the sequence number it last heard on that link as an
 * echo: the time between sending a number and hearing it back is the round trip (the peer's waiting time of up to one
 * interval included, so the lowest of the last few counts). Any frame at all is a sign of life. A link silent for longer
 * than the limit is given up: the shell closes it and tells the machine `linkDown` by "silent". Pure; the shell brings
 * the time.
 */
export type LinkLiveness = {
  readonly heardAtMs: number;
  readonly heardSequence: number;
  readonly sentSequence: number;
  readonly sentAtMs: number;
  /** When each of the last few sequence numbers was sent, newest last. */
  readonly sent: readonly { readonly sequence: number; readonly atMs: number }[];
  readonly rttMs: number | null;
};

export type Liveness = Readonly<Record<string, LinkLiveness>>;

export type LivenessAction =
  | { readonly tag: "sendHeartbeat"; readonly link: string; readonly sequence: number; readonly echo: number }
  | { readonly tag: "giveUp"; readonly link: string };

const SENT_KEPT = 16;

export function addLink(liveness: Liveness, link: string, nowMs: number): Liveness {
  const fresh = { heardAtMs: nowMs, heardSequence: 0, sentSequence: 0, sentAtMs: -Infinity, sent: [], rttMs: null };
  return { ...liveness, [link]: fresh };
}

export function removeLink(liveness: Liveness, link: string): Liveness {
  return Object.fromEntries(Object.entries(liveness).filter(([name]) => name !== link));
}

/** Anything came in on the link. */
export function noteHeard(liveness: Liveness, link: string, nowMs: number): Liveness {
  const state = liveness[link];
  return state === undefined ? liveness : { ...liveness, [link]: { ...state, heardAtMs: nowMs } };
}

export function noteHeartbeat(
  liveness: Liveness,
  link: string,
  heartbeat: { readonly sequence: number; readonly echo: number },
  nowMs: number,
): Liveness {
  const state = liveness[link];
  if (state === undefined) {
    return liveness;
  }
  const echoed = state.sent.find(({ sequence }) => sequence === heartbeat.echo);
  const sample = echoed === undefined ? null : nowMs - echoed.atMs;
  const rttMs =
    sample === null ? state.rttMs : state.rttMs === null ? sample : Math.min(sample, state.rttMs * 1.05 + 0.01);
  return { ...liveness, [link]: { ...state, heardAtMs: nowMs, heardSequence: heartbeat.sequence, rttMs } };
}

/** When this side sent what `heartbeat` echoes: that the peer was there after that moment is certain, and of no later one. */
export function echoedAtMs(liveness: Liveness, link: string, heartbeat: { readonly echo: number }): number | undefined {
  return liveness[link]?.sent.find(({ sequence }) => sequence === heartbeat.echo)?.atMs;
}

/** Time in which this side could not have heard anything, because it stood still itself. */
export function excuse(liveness: Liveness, standstillMs: number): Liveness {
  const excused = Object.entries(liveness).map(([link, state]) => {
    return [link, { ...state, heardAtMs: state.heardAtMs + standstillMs }] as const;
  });
  return Object.fromEntries(excused);
}

/** What is due now; call it every heartbeat interval, and a little more often for sharper detection. */
export function stepLiveness(
  liveness: Liveness,
  nowMs: number,
  limits: { readonly heartbeatMs: number; readonly silenceMs: number },
): { readonly liveness: Liveness; readonly actions: readonly LivenessAction[] } {
  const actions: LivenessAction[] = [];
  const next: Record<string, LinkLiveness> = {};
  for (const [link, state] of Object.entries(liveness)) {
    if (nowMs - state.heardAtMs > limits.silenceMs) {
      actions.push({ tag: "giveUp", link });
      continue;
    }
    if (nowMs - state.sentAtMs < limits.heartbeatMs) {
      next[link] = state;
      continue;
    }
    const sequence = state.sentSequence + 1;
    actions.push({ tag: "sendHeartbeat", link, sequence, echo: state.heardSequence });
    const sent = [...state.sent, { sequence, atMs: nowMs }].slice(-SENT_KEPT);
    next[link] = { ...state, sentSequence: sequence, sentAtMs: nowMs, sent };
  }
  return { liveness: next, actions };
}

/** How long until the next link would be given up if nothing more were heard; undefined without links. */
export function silenceInMs(liveness: Liveness, nowMs: number, silenceMs: number): number | undefined {
  const heardAtMs = Object.values(liveness).map((state) => state.heardAtMs);
  return heardAtMs.length === 0 ? undefined : Math.max(0, Math.min(...heardAtMs) + silenceMs - nowMs);
}
