/**
 * Tells worlds apart by what can follow from them.
 *
 * Two worlds that differ only in names are one: which process it was (nonces), which session, which life of the guest are
 * renamed in the order in which they appear; versions, terms and epochs count from the lowest that is still mentioned, and
 * only their order, of epochs also their being neighbours, is kept. What no rule reads is left out. That is sound because the
 * machine does nothing with these but compare them; without it every recovery would lead into a new copy of all worlds.
 *
 * A world is written as a string in which each of these takes one character beyond the letters, the class in the upper four
 * bits; parts that are shared between worlds are written once. The string is renamed and hashed to 64 bits in one go.
 */
import { type QuorumRecord, type QuorumRequest } from "../../src/protocol/quorum-record.ts";
import { type Side } from "../../src/protocol/side-state.ts";
import { type Call, type Engine, type Host, type Item, type Link, type World } from "./world.ts";

export type Fingerprint = { readonly low: number; readonly high: number };

const EPOCH = 1;
const VERSION = 2;
const TERM = 3;
const FIRST_NAME = 4;
const NONCE = 4;
const SESSION = 5;
const LIFE = 6;
const CLASSES_COUNT = 7;

const mark = (kind: number, value: number): string => String.fromCharCode((kind << 12) + value);

const nameNumbers = new Map<string, number>();
function nameNumber(name: string): number {
  let number = nameNumbers.get(name);
  if (number === undefined) {
    number = nameNumbers.size;
    nameNumbers.set(name, number);
  }
  return number;
}

const nonceMark = (nonce: string): string => `${nonce.charAt(0)}${mark(NONCE, nameNumber(nonce))}`;
const lifeMarks = (past: string): string =>
  Array.from(past, (life) => (life === "!" ? life : mark(LIFE, life.charCodeAt(0)))).join("");

function sessionMarks(session: string): string {
  const term = Number.parseInt(session, 10);
  const name = session.slice(session.indexOf(".") + 1);
  return `${mark(TERM, term)}${mark(SESSION, nameNumber(name))}`;
}

function requestMarks({ requestId }: Pick<QuorumRequest, "requestId">): string {
  const [nonce = "", version = "", change = ""] = requestId.split(":");
  return `${nonceMark(nonce)}${mark(VERSION, Number(version))}${change}`;
}

/** Any value, its fields in the order of their names; what the field is called tells the class of its value. */
function write(value: unknown): string {
  if (typeof value !== "object" || value === null) {
    return String(value);
  }
  if (Array.isArray(value)) {
    return `[${value.map(write).join(",")}]`;
  }
  let text = "{";
  for (const name of Object.keys(value).sort()) {
    text += `${writeField(name, (value as Record<string, unknown>)[name])},`;
  }
  return `${text}}`;
}

function writeField(name: string, value: unknown): string {
  switch (name) {
    case "epoch":
    case "first":
    case "next":
    case "captured":
    case "acked":
      return mark(EPOCH, value as number);
    case "finalEpoch":
      return value === 0 ? "-" : mark(EPOCH, value as number);
    case "term":
      return mark(TERM, value as number);
    case "session":
      return sessionMarks(value as string);
    case "past":
    case "heldPast":
    case "life":
      return value === null ? "-" : lifeMarks(value as string);
    default:
      return write(value);
  }
}

function writeRecord(record: QuorumRecord | null): string {
  return record === null
    ? "-"
    : `${mark(VERSION, record.version)}${mark(TERM, record.term)}${record.owner}${record.peerState.charAt(0)}`;
}

function writeSide(side: Side): string {
  const { record, ask, links, timers, shape, epoch, state, nonce, isImpaired, mode } = side;
  const flags = `${ask?.underWay === true ? "u" : ""}${ask?.mayBeDelivered === true ? "m" : ""}`;
  const asked = ask === null ? "-" : `${requestMarks(ask.request)}${flags}`;
  const head = `${nonceMark(nonce)}${isImpaired ? "!" : ""}${writeRecord(record)}|${asked}|${links.join("")}|${timers.join(",")}`;
  return `${head}|${mode.charAt(0)}${shape === null ? "" : "s"}${mark(EPOCH, epoch)}|${write(state)}`;
}

function writeEngine(engine: Engine): string {
  const { side, opens, replication, base, reception, starting, activating, deathUnheard } = engine;
  const flags = `${opens ?? "-"}${starting ?? "-"}${activating ? "!" : ""}${deathUnheard ? "?" : ""}`;
  return `${writeSide(side)}|${flags}|${write(replication)}|${write(base)}|${write(reception)}`;
}

function writeHost(host: Host): string {
  if (host.text === "") {
    const { engine, guest, resting } = host;
    host.text = `${engine === null ? "-" : writeEngine(engine)}/${write(guest)}${resting ? "r" : ""}`;
  }
  return host.text;
}

function writeItem(item: Item): string {
  switch (item.tag) {
    case "hello":
      return `h${mark(TERM, item.term)}`;
    case "welcome":
      return `w${write(item.holds)}`;
    case "inSync":
      return "i";
    case "refuse":
      return `r${item.code}`;
    case "guestDied":
      return "d";
    default:
      return write(item);
  }
}

function writeLink(link: Link): string {
  if (link.text !== "") {
    return link.text;
  }
  const { up, closing, queues } = link;
  const ends = `${Number(up[0])}${Number(up[1])}${Number(closing[0])}${Number(closing[1])}`;
  link.text = `${ends}${queues.map((queue) => queue.map((item) => writeItem(item)).join(";")).join(">")}`;
  return link.text;
}

function writeCall(call: Call): string {
  switch (call.tag) {
    case "read":
      return `R${call.host}${call.twice ? "2" : ""}${call.records.map(writeRecord).join(",")}`;
    case "ask": {
      const { decision } = call;
      const answer = decision === null ? "?" : `${decision.tag}${writeRecord(decision.record ?? null)}`;
      return `A${call.host}${requestMarks(call.request)}${answer}`;
    }
    case "stray":
      return `S${requestMarks(call.request)}`;
  }
}

function writeWorld({ mode, record, hosts, links, calls, released, livesCount, budget }: World): string {
  const last = record === null ? "" : requestMarks({ requestId: record.lastRequestId });
  const head = `${writeRecord(record)}${last}#${writeHost(hosts[0])}#${writeHost(hosts[1])}`;
  const asked = calls.map((call) => writeCall(call));
  const net = `${links.map(writeLink).join("#")}#${(asked.length > 1 ? asked.sort() : asked).join("#")}`;
  const { faults, outputs, epochs, switchovers, releases, modes } = budget;
  const left = `${faults}.${outputs}.${epochs}.${switchovers}.${releases}.${modes}${mode.charAt(0)}`;
  return `${head}#${net}#${lifeMarks(released)}#${livesCount === 0 ? "0" : "+"}#${left}`;
}

/** Of each class, by value: what the value is called in this world. */
const names = Array.from({ length: CLASSES_COUNT }, () => new Int32Array(4096));
const seen: number[][] = Array.from({ length: CLASSES_COUNT }, () => []);

export function fingerprintWorld(world: World): Fingerprint {
  const text = writeWorld(world);
  rename(text);
  let low = 0x811c9dc5 | 0;
  let high = 0x2545f491 | 0;
  for (let index = 0; index < text.length; index += 1) {
    let code = text.charCodeAt(index);
    if (code >= 0x1000) {
      code = (code & 0xf000) | (names[code >> 12]?.[code & 0xfff] ?? 0);
    }
    low = Math.imul(low ^ code, 0x01000193);
    high = Math.imul(high ^ code, 0x5bd1e995);
    high ^= high >>> 15;
  }
  low ^= low >>> 16;
  low = Math.imul(low, 0x85ebca6b);
  low ^= low >>> 13;
  return { low, high };
}

/** Fills `names` for what `text` mentions. */
function rename(text: string): void {
  for (const values of seen) {
    values.length = 0;
  }
  for (let index = 0; index < text.length; index += 1) {
    const code = text.charCodeAt(index);
    if (code >= 0x1000) {
      const values = seen[code >> 12];
      const value = code & 0xfff;
      if (values?.includes(value) === false) {
        values.push(value);
      }
    }
  }
  seen.forEach((values, kind) => {
    const table = names[kind];
    if (table !== undefined && values.length > 0) {
      nameClass(kind, values, table);
    }
  });
}

function nameClass(kind: number, values: number[], table: Int32Array): void {
  if (kind >= FIRST_NAME) {
    values.forEach((value, index) => (table[value] = index));
    return;
  }
  values.sort((left, right) => left - right);
  let before = values[0] ?? 0;
  let name = 0;
  for (const value of values) {
    if (kind === EPOCH) {
      name += Math.min(value - before, 2);
    } else if (kind === VERSION) {
      name = value === 0 ? 0 : name + 1; // 0 is no record at all.
    } else {
      name += 1;
    }
    before = value;
    table[value] = name;
  }
}
