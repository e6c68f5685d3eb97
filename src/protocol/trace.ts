/**
 * What an engine writes of its machine, so that a real run can be replayed through the same step functions (test/traces).
 *
 * JSON lines. The first of each engine process: {"trace":2,"atMs","side"} with the side before its first event; then one line an
 * event: {"atMs","event","state","epoch","effects"} with the tag of the state after it and the tags of the effects.
 * Times are of the host's wall clock, for people; no check reads them.
 *
 * Parsing is strict: fields that are missing, unknown or of another type, lines of more than LINE_CHARACTERS_MAX and heads that
 * are not of a side before its first event are refused. Messages inside are checked as they are on the wire.
 */
import { Failure } from "../lib/failure.ts";
import { parseMessageText } from "./message-codec.ts";
import { startSide } from "./side.ts";
import { type Effect, type Side, type SideEvent } from "./side-state.ts";

export const TRACE_VERSION = 2;

export type TraceHead = { readonly trace: number; readonly atMs: number; readonly side: Side };
export type TraceEvent = {
  readonly atMs: number;
  readonly event: SideEvent;
  readonly state: string;
  readonly epoch: number;
  readonly effects: readonly string[];
};
export type TraceLine = ({ readonly tag: "head" } & TraceHead) | ({ readonly tag: "event" } & TraceEvent);

/** A line that no engine of this release wrote. */
export class TraceFailure extends Failure<{
  readonly code: "BadTraceLine";
  readonly field: string;
  readonly problem: string;
}> {}

const LINE_CHARACTERS_MAX = 65_536;
const EFFECTS_MAX = 256;

export function encodeTraceHead(side: Side, atMs: number): string {
  const head: TraceHead = { trace: TRACE_VERSION, atMs, side };
  return `${JSON.stringify(head)}\n`;
}

export function encodeTraceEvent(atMs: number, event: SideEvent, side: Side, effects: readonly Effect[]): string {
  const { epoch, state } = side;
  const line: TraceEvent = { atMs, event, state: state.tag, epoch, effects: effects.map(({ tag }) => tag) };
  return `${JSON.stringify(line)}\n`;
}

/** One line without its line feed; {@link TraceFailure} when it is none. */
export function parseTraceLine(text: string): TraceLine {
  if (text.length > LINE_CHARACTERS_MAX) {
    throw bad("line", `has more than ${LINE_CHARACTERS_MAX} characters`);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw bad("line", "is no JSON", error);
  }
  const fields = parseFields(value, "line");
  return Object.hasOwn(fields, "trace") ? parseHead(fields) : parseEventLine(fields);
}

type Fields = Readonly<Record<string, unknown>>;
/** Throws unless `value`, found at `path`, is of its kind. */
type Check = (value: unknown, path: string) => void;
type Checks = Readonly<Record<string, Check>>;

const isCount: Check = (value, path) => {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) {
    throw bad(path, "is no whole number");
  }
};
const isTime: Check = (value, path) => {
  if (typeof value !== "number" || !Number.isFinite(value) || value < 0) {
    throw bad(path, "is no time");
  }
};
const isText: Check = (value, path) => {
  if (typeof value !== "string" || value.length > 1_024) {
    throw bad(path, "is no string of up to 1024 characters");
  }
};
const isBoolean: Check = (value, path) => {
  if (typeof value !== "boolean") {
    throw bad(path, "is neither true nor false");
  }
};

function isOneOf(...words: readonly string[]): Check {
  return (value, path) => {
    if (!words.includes(value as string)) {
      throw bad(path, `is none of ${words.join(", ")}`);
    }
  };
}

function isObjectOf(checks: Checks): Check {
  return (value, path) => {
    const fields = parseFields(value, path);
    for (const [key, check] of Object.entries(checks)) {
      if (!Object.hasOwn(fields, key)) {
        throw bad(`${path}.${key}`, "is missing");
      }
      check(fields[key], `${path}.${key}`);
    }
    const unknown = Object.keys(fields).find((key) => !Object.hasOwn(checks, key));
    if (unknown !== undefined) {
      throw bad(`${path}.${unknown.slice(0, 64)}`, "is unknown");
    }
  };
}

function isListOf(check: Check, limit: number): Check {
  return (value, path) => {
    if (!Array.isArray(value) || value.length > limit) {
      throw bad(path, `is no list of up to ${limit} members`);
    }
    value.forEach((member, index) => {
      check(member, `${path}[${index}]`);
    });
  };
}

function isVariantOf(variants: Readonly<Record<string, Checks>>): Check {
  return (value, path) => {
    const { tag } = parseFields(value, path);
    const checks = typeof tag === "string" && Object.hasOwn(variants, tag) ? variants[tag] : undefined;
    if (checks === undefined) {
      throw bad(`${path}.tag`, `is none of ${Object.keys(variants).join(", ")}`);
    }
    isObjectOf({ tag: isText, ...checks })(value, path);
  };
}

function isNullOr(check: Check): Check {
  return (value, path) => {
    if (value !== null) {
      check(value, path);
    }
  };
}

const isMessage: Check = (value, path) => {
  try {
    parseMessageText(new TextEncoder().encode(JSON.stringify(value)));
  } catch (error) {
    throw bad(path, error instanceof Error ? error.message : "is no message", error);
  }
};

const recordChecks: Checks = {
  guest: isText,
  version: isCount,
  term: isCount,
  owner: isText,
  peer: isText,
  peerState: isOneOf("InSync", "Stale"),
  epoch: isCount,
  lastRequestId: isText,
};
const isOverride = isObjectOf({ who: isText, why: isText, at: isText, term: isCount });

/** One on which a person decided once says so ever after. */
const isRecord: Check = (value, path) => {
  const isOverridden = Object.hasOwn(parseFields(value, path), "override");
  isObjectOf(isOverridden ? { ...recordChecks, override: isOverride } : recordChecks)(value, path);
};
const isShape = isObjectOf({
  qemuVersion: isText,
  machine: isText,
  ramBlocks: isListOf(isObjectOf({ name: isText, bytes: isCount }), 64),
  disks: isListOf(isObjectOf({ id: isText, bytes: isNullOr(isCount) }), 64),
  devices: isListOf(isObjectOf({ model: isText, count: isCount }), 64),
});

const isRefusal = isOneOf("VersionMismatch", "NoRecord", "RecordExists", "NotOwner", "NotPeer", "PeerStale", "Moved");
const isOutcome: Check = (value, path) => {
  // JSON leaves out what is undefined: a refusal for want of a record has no record.
  const hasRecord = Object.hasOwn(parseFields(value, path), "record");
  isVariantOf({
    granted: { record: isRecord, changed: isBoolean },
    refused: hasRecord ? { reason: isRefusal, record: isRecord } : { reason: isRefusal },
    unreachable: {},
    unknown: {},
  })(value, path);
};

const isMode = isOneOf("FaultTolerant", "HighAvailability");
const eventChecks: { readonly [Tag in SideEvent["tag"]]: Checks } = {
  started: { found: isOneOf("none", "incoming", "running"), shape: isNullOr(isShape) },
  recordRead: { record: isNullOr(isRecord) },
  recordUnread: {},
  quorumAnswered: { requestId: isText, outcome: isOutcome },
  guestReady: { shape: isShape },
  guestFailed: {},
  guestDied: {},
  guestShutDown: {},
  linkUp: { link: isText },
  linkDown: { link: isText, by: isOneOf("closed", "silent") },
  received: { link: isText, message: isMessage },
  copied: { session: isText },
  captured: { session: isText, epoch: isCount, final: isBoolean },
  sessionFailed: { session: isText },
  epochHeld: { session: isText, epoch: isCount },
  applyFailed: { session: isText, reason: isText },
  activated: {},
  activateFailed: {},
  healthChanged: { isImpaired: isBoolean },
  switchoverAsked: {},
  modeAsked: { mode: isMode },
  releaseAsked: {},
  stopAsked: {},
  timerFired: { timer: isOneOf("retry", "look", "grace", "yield", "ackOverdue", "heldTooLong", "coldGrace") },
};

const isEventLine = isObjectOf({
  atMs: isTime,
  event: isVariantOf(eventChecks),
  state: isText,
  epoch: isCount,
  effects: isListOf(isText, EFFECTS_MAX),
});

function parseHead(fields: Fields): TraceLine {
  if (fields["trace"] !== TRACE_VERSION) {
    throw bad("line.trace", `is not ${TRACE_VERSION}: check it with the release that wrote it`);
  }
  isObjectOf({ trace: isCount, atMs: isTime, side: parseFields })(fields, "line");
  const side = parseFields(fields["side"], "line.side");
  const { guest, node, peer, nonce, createsRecord, mode } = side;
  [guest, node, peer, nonce].forEach((name) => {
    isText(name, "line.side");
  });
  isBoolean(createsRecord, "line.side.createsRecord");
  isMode(mode, "line.side.mode");
  const fresh = startSide({ guest, node, peer, nonce, createsRecord, mode } as Parameters<typeof startSide>[0]);
  for (const key of new Set([...Object.keys(side), ...Object.keys(fresh)])) {
    if (JSON.stringify(side[key]) !== JSON.stringify((fresh as Fields)[key])) {
      throw bad(`line.side.${key.slice(0, 64)}`, "is not that of a side before its first event");
    }
  }
  return { tag: "head", trace: TRACE_VERSION, atMs: fields["atMs"] as number, side: fresh };
}

function parseEventLine(fields: Fields): TraceLine {
  isEventLine(fields, "line");
  return { tag: "event", ...(fields as TraceEvent) };
}

function parseFields(value: unknown, path: string): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw bad(path, "is no object");
  }
  return value as Fields;
}

function bad(field: string, problem: string, cause?: unknown): TraceFailure {
  return new TraceFailure({ code: "BadTraceLine", field, problem }, `${field} ${problem}`, { cause });
}
