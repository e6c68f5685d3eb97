/**
 * What nodes and the quorum say to one another over mutual TLS.
 *
 *   node   -> quorum   {"version":1,"id":N,"call":{"tag":"change","request":{...}}}     change a guest's record
 *                      {"version":1,"id":N,"call":{"tag":"read","guest":"..."}}
 *                      {"version":1,"id":N,"call":{"tag":"health"}}                      also tells whether the store answers
 *                      {"version":1,"id":N,"call":{"tag":"remove","guest":"..."}}        the operator's alone: the guest is gone
 *   quorum -> node     {"version":1,"id":N,"answer":{"tag":...}}                         in any order, matched by id
 *
 * A message is a length (4 bytes, big endian, at most 16 KiB) and that many bytes of JSON in UTF-8. Whatever does not have
 * exactly this form is refused; a call with another version is answered with `notDone`/PeerVersionMismatch, and that
 * answer's form stays the same in every version. Calls may be in flight together. A change may be repeated with the
 * same requestId without being carried out twice.
 */
import { Failure } from "../lib/failure.ts";
import type { Override, QuorumChange, QuorumRecord, QuorumRefusal, QuorumRequest } from "../protocol/quorum-record.ts";
import type { FrameSource } from "./frame-connection.ts";

export const QUORUM_WIRE_VERSION = 1;
export const QUORUM_MESSAGE_BYTES_MAX = 16 * 1024;

export type QuorumCall =
  | { readonly tag: "change"; readonly request: QuorumRequest }
  | { readonly tag: "read"; readonly guest: string }
  | { readonly tag: "remove"; readonly guest: string }
  | { readonly tag: "health" };

/** Why a call was certainly not carried out. */
export type NotDoneCode =
  | "StoreUnavailable"
  | "RecordDamaged"
  /** `by` is not the node of the caller's certificate, or what is asked is not the caller's to ask. */
  | "ForeignNode"
  | "BadRequest"
  | "PeerVersionMismatch"
  /** Others changed the record again and again in between. */
  | "Contended"
  | "Stopping";

export type QuorumAnswer =
  /** Not `changed`: the same request was carried out before. */
  | { readonly tag: "granted"; readonly record: QuorumRecord; readonly changed: boolean }
  | { readonly tag: "refused"; readonly reason: QuorumRefusal; readonly record?: QuorumRecord | undefined }
  | { readonly tag: "record"; readonly record?: QuorumRecord | undefined }
  | { readonly tag: "removed" }
  | { readonly tag: "health"; readonly storeAnswers: boolean }
  /** The change may or may not have been carried out. */
  | { readonly tag: "unknown"; readonly why: string }
  | { readonly tag: "notDone"; readonly code: NotDoneCode; readonly why: string };

export type CallMessage = { readonly version: number; readonly id: number; readonly call: QuorumCall };
export type AnswerMessage = { readonly id: number; readonly answer: QuorumAnswer };

export type QuorumWireFailureDetail =
  | { readonly code: "MessageTooLong"; readonly bytes: number; readonly limitBytes: number }
  | { readonly code: "BadMessage"; readonly problem: string };
export class QuorumWireFailure extends Failure<QuorumWireFailureDetail> {}

export function encodeQuorumMessage(message: CallMessage | (AnswerMessage & { readonly version: number })): Uint8Array {
  const json = Buffer.from(JSON.stringify(message));
  const bytes = Buffer.allocUnsafe(4 + json.length);
  bytes.writeUInt32BE(json.length, 0);
  json.copy(bytes, 4);
  return bytes;
}

/** Cuts the stream into messages; throws a {@link QuorumWireFailure} on a length or text that is none. */
export class QuorumMessageDecoder implements FrameSource<unknown> {
  #rest: Buffer = Buffer.alloc(0);

  push(chunk: Uint8Array): readonly unknown[] {
    const messages: unknown[] = [];
    let bytes = this.#rest.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.#rest, chunk]);
    while (bytes.length >= 4) {
      const length = bytes.readUInt32BE(0);
      if (length > QUORUM_MESSAGE_BYTES_MAX) {
        throw new QuorumWireFailure(
          { code: "MessageTooLong", bytes: length, limitBytes: QUORUM_MESSAGE_BYTES_MAX },
          `a message of ${length} bytes, where at most ${QUORUM_MESSAGE_BYTES_MAX} are allowed: the peer is no Twinrun process, or of another version`,
        );
      }
      if (bytes.length < 4 + length) {
        break;
      }
      messages.push(parseJson(bytes.toString("utf8", 4, 4 + length)));
      bytes = bytes.subarray(4 + length);
    }
    this.#rest = bytes;
    return messages;
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw bad("it is no JSON", error);
  }
}

type Fields = Readonly<Record<string, unknown>>;

/** Every parser below throws a {@link QuorumWireFailure} that names the first problem. */
export function parseCallMessage(value: unknown): CallMessage {
  const message = fields(value, "message");
  const id = count(message["id"], "id");
  const version = count(message["version"], "version");
  if (version !== QUORUM_WIRE_VERSION) {
    return { id, version, call: { tag: "health" } }; // What it asks cannot be known; the service refuses by version.
  }
  return { id, version, call: parseCall(fields(message["call"], "call")) };
}

function parseCall(call: Fields): QuorumCall {
  switch (call["tag"]) {
    case "change":
      return { tag: "change", request: parseQuorumRequest(call["request"]) };
    case "read":
    case "remove":
      return { tag: call["tag"], guest: guestName(call["guest"]) };
    case "health":
      return { tag: "health" };
    default:
      throw bad("the call's tag is unknown");
  }
}

export function parseAnswerMessage(value: unknown): AnswerMessage {
  const message = fields(value, "message");
  const answer = fields(message["answer"], "answer");
  return { id: count(message["id"], "id"), answer: parseAnswer(answer) };
}

const REFUSALS: readonly QuorumRefusal[] = [
  "VersionMismatch",
  "NoRecord",
  "RecordExists",
  "NotOwner",
  "NotPeer",
  "PeerStale",
  "Moved",
];
const NOT_DONE: readonly NotDoneCode[] = [
  "StoreUnavailable",
  "RecordDamaged",
  "ForeignNode",
  "BadRequest",
  "PeerVersionMismatch",
  "Contended",
  "Stopping",
];

function parseAnswer(answer: Fields): QuorumAnswer {
  const record = answer["record"] === undefined ? undefined : parseQuorumRecord(answer["record"]);
  switch (answer["tag"]) {
    case "granted":
      return { tag: "granted", record: parseQuorumRecord(answer["record"]), changed: answer["changed"] === true };
    case "refused":
      return { tag: "refused", reason: oneOf(REFUSALS, answer["reason"], "reason"), record };
    case "record":
      return { tag: "record", record };
    case "removed":
      return { tag: "removed" };
    case "health":
      return { tag: "health", storeAnswers: answer["storeAnswers"] === true };
    case "unknown":
      return { tag: "unknown", why: text(answer["why"], "why", 4096) };
    case "notDone":
      return { tag: "notDone", code: oneOf(NOT_DONE, answer["code"], "code"), why: text(answer["why"], "why", 4096) };
    default:
      throw bad("the answer's tag is unknown");
  }
}

export function parseQuorumRequest(value: unknown): QuorumRequest {
  const request = fields(value, "request");
  return {
    guest: guestName(request["guest"]),
    by: text(request["by"], "by", 253),
    requestId: text(request["requestId"], "requestId", 128),
    expectedVersion: count(request["expectedVersion"], "expectedVersion"),
    change: parseChange(fields(request["change"], "change")),
  };
}

function parseChange(change: Fields): QuorumChange {
  switch (change["tag"]) {
    case "takeOver":
    case "runAlone":
      return { tag: change["tag"] };
    case "create":
    case "replacePeer":
      return { tag: change["tag"], peer: text(change["peer"], "peer", 253) };
    case "declareInSync":
    case "handOver":
      return { tag: change["tag"], epoch: count(change["epoch"], "epoch") };
    case "moveAway":
      return { tag: change["tag"], to: oneOf(SEATS, change["to"], "to") };
    case "settle":
      return { tag: change["tag"], record: parseQuorumRecord(change["record"]) };
    case "force":
      return {
        tag: change["tag"],
        peer: text(change["peer"], "peer", 253),
        term: count(change["term"], "term"),
        override: parseSaying(fields(change["override"], "override")),
      };
    default:
      throw bad("the change's tag is unknown");
  }
}

const SEATS = ["preferred", "alternate"] as const;

function parseSaying(said: Fields): Omit<Override, "term"> {
  return { who: text(said["who"], "who", 253), why: text(said["why"], "why", 1024), at: text(said["at"], "at", 64) };
}

function parseOverride(override: Fields): Override {
  return { ...parseSaying(override), term: count(override["term"], "term") };
}

/** For what comes from the wire and what comes back from a store. */
export function parseQuorumRecord(value: unknown): QuorumRecord {
  const record = fields(value, "record");
  const { movedTo, override } = record;
  return {
    guest: guestName(record["guest"]),
    version: count(record["version"], "version"),
    term: count(record["term"], "term"),
    owner: text(record["owner"], "owner", 253),
    peer: text(record["peer"], "peer", 253),
    peerState: oneOf(["InSync", "Stale"] as const, record["peerState"], "peerState"),
    epoch: count(record["epoch"], "epoch"),
    lastRequestId: text(record["lastRequestId"], "lastRequestId", 128),
    ...(movedTo === undefined ? {} : { movedTo: oneOf(SEATS, movedTo, "movedTo") }),
    ...(override === undefined ? {} : { override: parseOverride(fields(override, "override")) }),
  };
}

function fields(value: unknown, name: string): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw bad(`${name} is no object`);
  }
  return value as Fields;
}

function text(value: unknown, name: string, lengthMax: number): string {
  if (typeof value !== "string" || value.length === 0 || value.length > lengthMax) {
    throw bad(`${name} is no text of 1 to ${lengthMax} characters`);
  }
  return value;
}

function count(value: unknown, name: string): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) {
    throw bad(`${name} is no whole number`);
  }
  return value;
}

/** A name that is also a file name and an etcd key, with room for `namespace/name`. */
function guestName(value: unknown): string {
  if (
    typeof value !== "string" ||
    !/^[A-Za-z0-9][-A-Za-z0-9._]{0,99}(?:\/[A-Za-z0-9][-A-Za-z0-9._]{0,99})?$/.test(value)
  ) {
    throw bad("guest is no name: NAME or NAMESPACE/NAME, of letters, digits, '-', '.' and '_', at most 100 each");
  }
  return value;
}

function oneOf<T extends string>(all: readonly T[], value: unknown, name: string): T {
  const found = all.find((candidate) => candidate === value);
  if (found === undefined) {
    throw bad(`${name} is none of ${all.join(", ")}`);
  }
  return found;
}

function bad(problem: string, cause?: unknown): QuorumWireFailure {
  return new QuorumWireFailure(
    { code: "BadMessage", problem },
    `a message of the quorum protocol is wrong: ${problem}`,
    {
      cause,
    },
  );
}
