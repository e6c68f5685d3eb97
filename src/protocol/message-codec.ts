/**
 * Control messages as bytes and back: one JSON object, in UTF-8, with exactly the fields that messages.ts has.
 *
 * Strict on purpose: both ends are the same release (the frame header says so), so a field that is missing, unknown or
 * out of bounds is a bug or an attack and not a newer peer. Strings have 256 characters at most, lists 64 members,
 * numbers are whole and not negative. Sentences for people are cut to that length when they are sent.
 */
import { Failure } from "../lib/failure.ts";
import { type Holding, type MachineShape, type Message, type RefusalCode, type SyncBasis } from "./messages.ts";

export type MessageFailureDetail = {
  readonly code: "BadMessage";
  /** Path of the field, such as `hello.shape.disks[0].bytes`. */
  readonly field: string;
  readonly problem: string;
};

/** Bytes that are no {@link Message}. */
export class MessageFailure extends Failure<MessageFailureDetail> {}

const CHARACTERS_MAX = 256;
const MEMBERS_MAX = 64;
const ENCODER = new TextEncoder();
const DECODER = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export function encodeMessageText(message: Message): Uint8Array {
  return ENCODER.encode(JSON.stringify(clipSentences(message)));
}

export function parseMessageText(bytes: Uint8Array): Message {
  let value: unknown;
  try {
    value = JSON.parse(DECODER.decode(bytes));
  } catch (error) {
    throw bad("message", "is no JSON", error);
  }
  return parseMessage(value);
}

/** The message in `value`, which JSON.parse made. */
function parseMessage(value: unknown): Message {
  return aMessage(value, "message");
}

type Parse<Value> = (value: unknown, path: string) => Value;
type Shape<Value> = { readonly [Key in keyof Value]-?: Parse<Value[Key]> };

const aNumber: Parse<number> = (value, path) => {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) {
    throw bad(path, "is no whole number from 0 to 2^53 - 1");
  }
  return value;
};

const aText: Parse<string> = (value, path) => {
  if (typeof value !== "string" || value.length > CHARACTERS_MAX) {
    throw bad(path, `is no string of up to ${CHARACTERS_MAX} characters`);
  }
  return value;
};

const aName: Parse<string> = (value, path) => {
  const text = aText(value, path);
  if (text === "") {
    throw bad(path, "is empty");
  }
  return text;
};

const aBoolean: Parse<boolean> = (value, path) => {
  if (typeof value !== "boolean") {
    throw bad(path, "is neither true nor false");
  }
  return value;
};

function orNull<Value>(parse: Parse<Value>): Parse<Value | null> {
  return (value, path) => (value === null ? null : parse(value, path));
}

function aWord<Word extends string>(words: Readonly<Record<Word, true>>): Parse<Word> {
  return (value, path) => {
    if (typeof value !== "string" || !Object.hasOwn(words, value)) {
      throw bad(path, `is none of ${Object.keys(words).join(", ")}`);
    }
    return value as Word;
  };
}

function aList<Member>(parse: Parse<Member>): Parse<readonly Member[]> {
  return (value, path) => {
    if (!Array.isArray(value) || value.length > MEMBERS_MAX) {
      throw bad(path, `is no list of up to ${MEMBERS_MAX} members`);
    }
    return value.map((member, index) => parse(member, `${path}[${index}]`));
  };
}

/** An object with exactly these fields. */
function anObject<Value extends object>(shape: Shape<Value>): Parse<Value> {
  const keys = Object.keys(shape) as (keyof Value & string)[];
  return (value, path) => {
    const fields = parseFields(value, path);
    const parsed: Partial<Value> = {};
    for (const key of keys) {
      if (!Object.hasOwn(fields, key)) {
        throw bad(`${path}.${key}`, "is missing");
      }
      parsed[key] = shape[key](fields[key], `${path}.${key}`);
    }
    for (const key of Object.keys(fields)) {
      if (!Object.hasOwn(shape, key)) {
        throw bad(`${path}.${key.slice(0, 64)}`, "is unknown");
      }
    }
    return parsed as Value;
  };
}

type Tagged = { readonly tag: string };
type Variants<Union extends Tagged> = {
  readonly [Tag in Union["tag"]]: Shape<Omit<Extract<Union, { readonly tag: Tag }>, "tag">>;
};

/** One of several objects, told apart by `tag`. A tag or field that is left out of `shapes` does not type-check. */
function aVariant<Union extends Tagged>(shapes: Variants<Union>): Parse<Union> {
  const parsers = new Map<unknown, Parse<object>>();
  for (const [tag, shape] of Object.entries(shapes)) {
    parsers.set(tag, anObject({ tag: aText, ...(shape as Shape<object>) }));
  }
  return (value, path) => {
    const parse = parsers.get(parseFields(value, path)["tag"]);
    if (parse === undefined) {
      throw bad(`${path}.tag`, `is none of ${[...parsers.keys()].join(", ")}`);
    }
    return parse(value, path) as Union;
  };
}

function parseFields(value: unknown, path: string): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw bad(path, "is no object");
  }
  return value as Readonly<Record<string, unknown>>;
}

function bad(field: string, problem: string, cause?: unknown): MessageFailure {
  const says = `the peer sent a message whose ${field} ${problem}: this is a bug, please report it`;
  return new MessageFailure({ code: "BadMessage", field, problem }, says, { cause });
}

const aShape = anObject<MachineShape>({
  qemuVersion: aName,
  machine: aName,
  ramBlocks: aList(anObject({ name: aName, bytes: aNumber })),
  disks: aList(anObject({ id: aName, bytes: orNull(aNumber) })),
  devices: aList(anObject({ model: aName, count: aNumber })),
});

const aBasis = aVariant<SyncBasis>({
  delta: { session: aName, epoch: aNumber },
  hashes: {},
  full: {},
  firmware: {},
});

const aRefusalCode = aWord<RefusalCode>({
  ProtocolVersion: true,
  WrongGuest: true,
  StaleTerm: true,
  MachineMismatch: true,
  RamMismatch: true,
  DiskTooSmall: true,
  NotStandby: true,
  TakeoverPending: true,
});

const aMessage = aVariant<Message>({
  hello: { version: aNumber, guest: aName, node: aName, term: aNumber, shape: aShape },
  welcome: {
    version: aNumber,
    node: aName,
    term: aNumber,
    holds: orNull(anObject<Holding>({ session: aName, epoch: aNumber })),
    disksKnown: aBoolean,
  },
  refuse: { code: aRefusalCode, message: aText, term: aNumber },
  heartbeat: { sequence: aNumber, echo: aNumber },
  syncBegin: { session: aName, ram: aBasis, disks: aBasis },
  ack: { session: aName, epoch: aNumber },
  inSync: { session: aName, epoch: aNumber, version: aNumber },
  resume: { session: aName },
  resumed: { session: aName, epoch: aNumber },
  stale: { session: aName, reason: aText },
  expectGuest: { session: aName },
  handOver: { session: aName, epoch: aNumber, term: aNumber },
  guestDied: { epoch: aNumber },
  guestShutDown: {},
});

function clipSentences(message: Message): Message {
  if (message.tag === "refuse") {
    return { ...message, message: message.message.slice(0, CHARACTERS_MAX) };
  }
  return message.tag === "stale" ? { ...message, reason: message.reason.slice(0, CHARACTERS_MAX) } : message;
}
