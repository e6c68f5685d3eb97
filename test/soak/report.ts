/** What a soak came to: a table for people, and a file with everything. */
import { type TraceVerdict } from "../lab/cluster.ts";
import { summarizeLatencies, type LatencyFigures } from "../lab/clients/figures.ts";
import { findLongestWait, sumVerdicts, type Verdicts, type WitnessResult } from "../lab/load.ts";
import { failPointNames, roundNames } from "./catalogue.ts";
import { GAP_MS } from "./clients.ts";
import { type Kill, type SoakOutcome, type Violation } from "./soak.ts";
import { type Survival, survivals } from "./survival.ts";

export type SoakReport = {
  readonly passed: boolean;
  readonly seed: number;
  readonly faultsInjected: number;
  readonly seconds: number;
  readonly violation: Violation | null;
  /** What clients were told and is not on a disk in the end. */
  readonly missingOnDisk: readonly string[];
  readonly traces: TraceVerdict;
  readonly clients: Verdicts;
  readonly disksCompared: number;
  readonly kinds: readonly KindSummary[];
  readonly clientFaults: readonly unknown[];
  readonly each: readonly Kill[];
};

export type KindSummary = {
  readonly kind: string;
  /** Rounds of this kind. */
  readonly count: number;
  readonly survived: Readonly<Partial<Record<Survival, number>>>;
  readonly takeoverMs: LatencyFigures;
  readonly protectedAfterMs: LatencyFigures;
  /** Of a client of the guest, for one reply; of a guest that booted nobody waits. */
  readonly longestWaitMs: number;
};

/** A client may wait this much longer than until the guest is protected again, but not into the next round. */
const TAIL_MS = 3_000;
const BEFORE_NEXT_MS = 150;

export function planReport(
  outcome: SoakOutcome,
  results: readonly WitnessResult[],
  rest: Pick<SoakReport, "seed" | "seconds" | "missingOnDisk" | "traces">,
): SoakReport {
  const clients = sumVerdicts(results);
  const clientFaults = results.flatMap(({ guest, name, result }) =>
    result.faults.map((fault) => ({ guest, name, ...fault })),
  );
  const isGood = outcome.violation === undefined && clients.survived === clients.connections;
  return {
    passed: isGood && clientFaults.length === 0 && rest.missingOnDisk.length === 0 && rest.traces.accepted,
    ...rest,
    faultsInjected: outcome.faultsCount,
    violation: outcome.violation ?? null,
    clients,
    disksCompared: outcome.disksComparedCount,
    kinds: listKinds(outcome.kills, results),
    clientFaults,
    each: outcome.kills,
  };
}

function listKinds(kills: readonly Kill[], results: readonly WitnessResult[]): readonly KindSummary[] {
  return roundNames.flatMap((kind) => {
    const own = kills.filter(({ round }) => round === kind);
    return own.length === 0 ? [] : [summarizeKind(kind, own, { kills, results })];
  });
}

type Run = { readonly kills: readonly Kill[]; readonly results: readonly WitnessResult[] };

function findWait({ guest, atMs, protectedAfterMs }: Kill, { kills, results }: Run): number {
  const nextAtMs = Math.min(...kills.filter((other) => other.atMs > atMs).map((other) => other.atMs));
  const untilMs = Math.min(atMs + protectedAfterMs + TAIL_MS, nextAtMs - BEFORE_NEXT_MS);
  return findLongestWait(results, guest, atMs, untilMs);
}

function summarizeKind(kind: string, own: readonly Kill[], run: Run): KindSummary {
  const waits = own.filter(({ survival }) => survival !== "booted").map((kill) => findWait(kill, run));
  return {
    kind,
    count: own.length,
    survived: Object.fromEntries(
      survivals.flatMap((survival) => {
        const times = own.filter((kill) => kill.survival === survival).length;
        return times === 0 ? [] : [[survival, times]];
      }),
    ),
    takeoverMs: summarizeLatencies(own.flatMap(({ takeover }) => (takeover === undefined ? [] : [takeover.totalMs]))),
    protectedAfterMs: summarizeLatencies(own.map(({ protectedAfterMs }) => protectedAfterMs)),
    longestWaitMs: Math.max(0, ...waits),
  };
}

/** A line for each kind of fault; deaths at a step of the protocol are told together. */
export function listLines(report: SoakReport, results: readonly WitnessResult[]): readonly string[] {
  const steps = report.each.filter(({ round }) => failPointNames.has(round));
  const kindsOfSteps = new Set(steps.map(({ round }) => round)).size;
  const together =
    steps.length === 0
      ? []
      : [summarizeKind(`${kindsOfSteps} steps of the protocol`, steps, { kills: report.each, results })];
  const shown = [...report.kinds.filter(({ kind }) => !failPointNames.has(kind)), ...together];
  return shown.map(({ kind, count, survived, longestWaitMs }) => {
    const how = Object.entries(survived).map(([survival, times]) => `${survival} ${times}`);
    const wait = longestWaitMs < GAP_MS ? `below ${GAP_MS} ms` : `${(longestWaitMs / 1000).toFixed(1)} s`;
    const waited = survived.booted === count ? "its clients are others" : `longest wait ${wait}`;
    return `${kind.padEnd(38)} ${String(count).padStart(4)} x  ${how.join(", ").padEnd(44)} ${waited}`;
  });
}
