/**
 * What an engine writes of its machine, so that a real run can be replayed through the same step functions (test/traces).
 *
 * JSON lines. The first of each engine process: {"trace":1,"atMs","side"} with the side before its first event; then one line an
 * event: {"atMs","event","state","epoch","effects"} with the tag of the state after it and the tags of the effects.
 * Times are of the host's wall clock, for people; no check reads them.
 */
import { type Effect, type Side, type SideEvent } from "./side-state.ts";

export const TRACE_VERSION = 1;

export type TraceHead = { readonly trace: number; readonly atMs: number; readonly side: Side };
export type TraceEvent = {
  readonly atMs: number;
  readonly event: SideEvent;
  readonly state: string;
  readonly epoch: number;
  readonly effects: readonly string[];
};

export function encodeTraceHead(side: Side, atMs: number): string {
  const head: TraceHead = { trace: TRACE_VERSION, atMs, side };
  return `${JSON.stringify(head)}\n`;
}

export function encodeTraceEvent(atMs: number, event: SideEvent, side: Side, effects: readonly Effect[]): string {
  const { epoch, state } = side;
  const line: TraceEvent = { atMs, event, state: state.tag, epoch, effects: effects.map(({ tag }) => tag) };
  return `${JSON.stringify(line)}\n`;
}
