import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { anyMessage, messagesByTag } from "../../test/build/wire-frames.ts";
import { encodeMessageText, MessageFailure, parseMessageText } from "./message-codec.ts";
import { type Message } from "./messages.ts";

const parse = (value: unknown): Message => parseMessageText(Buffer.from(JSON.stringify(value)));
const findField = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(MessageFailure);
    return (error as MessageFailure).detail.field;
  }
  return "nothing was wrong";
};

const hello = {
  tag: "hello",
  version: 1,
  guest: "web",
  node: "host-a",
  term: 3,
  shape: {
    qemuVersion: "7.2.0",
    machine: "pc-q35-7.2",
    ramBlocks: [{ name: "pc.ram", bytes: 2 ** 30 }],
    disks: [],
    devices: [],
  },
};
const welcome = { tag: "welcome", version: 1, node: "host-b", term: 3, holds: null, disksKnown: false };
const begin = { tag: "syncBegin", session: "3-1", ram: { tag: "full" }, disks: { tag: "hashes" } };

test("every message comes out as it went in", () => {
  fc.assert(
    fc.property(anyMessage, (message) => {
      expect(parseMessageText(encodeMessageText(message))).toStrictEqual(message);
    }),
  );
});

test("a message with a field less or a field more is refused, and the field is named", () => {
  for (const [tag, messages] of Object.entries<fc.Arbitrary<Message>>(messagesByTag)) {
    for (const message of fc.sample(messages, 3)) {
      expect(findField(() => parse({ ...message, more: 1 }))).toBe("message.more");
      for (const field of Object.keys(message)) {
        const rest = Object.fromEntries(Object.entries(message).filter(([key]) => key !== field));
        expect([tag, findField(() => parse(rest))]).toEqual([tag, `message.${field}`]);
      }
    }
  }
});

test.each<{ what: string; value: unknown; field: string }>([
  { what: "a list", value: [], field: "message" },
  { what: "null", value: null, field: "message" },
  { what: "no tag", value: {}, field: "message.tag" },
  { what: "an unknown tag", value: { tag: "goodbye" }, field: "message.tag" },
  { what: "the name of a method as tag", value: { tag: "constructor" }, field: "message.tag" },
  { what: "a negative number", value: { tag: "guestDied", epoch: -1 }, field: "message.epoch" },
  { what: "a fraction", value: { tag: "guestDied", epoch: 1.5 }, field: "message.epoch" },
  { what: "a number past 2^53", value: { tag: "guestDied", epoch: 2 ** 53 }, field: "message.epoch" },
  { what: "digits in a string", value: { tag: "guestDied", epoch: "1" }, field: "message.epoch" },
  { what: "null for a number", value: { tag: "guestDied", epoch: null }, field: "message.epoch" },
  { what: "a long name", value: { ...hello, guest: "g".repeat(257) }, field: "message.guest" },
  { what: "an empty name", value: { ...hello, node: "" }, field: "message.node" },
  { what: "a number as name", value: { ...hello, node: 1 }, field: "message.node" },
  { what: "no shape", value: { ...hello, shape: null }, field: "message.shape" },
  {
    what: "too many memory blocks",
    value: { ...hello, shape: { ...hello.shape, ramBlocks: new Array(65).fill({ name: "a", bytes: 1 }) } },
    field: "message.shape.ramBlocks",
  },
  {
    what: "a disk without a size",
    value: { ...hello, shape: { ...hello.shape, disks: [{ id: "a", bytes: 1 }, { id: "b" }] } },
    field: "message.shape.disks[1].bytes",
  },
  {
    what: "an object for a list",
    value: { ...hello, shape: { ...hello.shape, disks: {} } },
    field: "message.shape.disks",
  },
  { what: "0 for false", value: { ...welcome, disksKnown: 0 }, field: "message.disksKnown" },
  { what: "half a holding", value: { ...welcome, holds: { session: "1" } }, field: "message.holds.epoch" },
  { what: "an unknown refusal", value: { tag: "refuse", code: "No", message: "", term: 1 }, field: "message.code" },
  { what: "an unknown basis", value: { ...begin, ram: { tag: "half" } }, field: "message.ram.tag" },
  { what: "more in a basis", value: { ...begin, disks: { tag: "full", epoch: 1 } }, field: "message.disks.epoch" },
])("$what is refused, naming $field", ({ value, field }) => {
  expect(findField(() => parse(value))).toBe(field);
});

test.each<[string, Uint8Array]>([
  ["no JSON", Buffer.from("{tag}")],
  ["bytes that are no UTF-8", Buffer.from([0x22, 0xff, 0x22])],
  ["a byte order mark", Buffer.from('\ufeff{"tag":"guestShutDown"}')],
  ["two messages", Buffer.from('{"tag":"guestShutDown"}{"tag":"guestShutDown"}')],
])("%s is refused", (_, bytes) => {
  expect(findField(() => parseMessageText(bytes))).toBe("message");
});

test("what a message lacks is called missing", () => {
  expect(() => parse({ tag: "guestDied" })).toThrow(/message[.]epoch is missing/);
});

test("a field that would change the prototype is an unknown field", () => {
  const text = '{"tag":"guestShutDown","__proto__":{"epoch":1}}';
  expect(findField(() => parseMessageText(Buffer.from(text)))).toBe("message.__proto__");
});

test("sentences for people are cut, not refused", () => {
  const stale = { tag: "stale", session: "1-1", reason: "r".repeat(1000) } as const;
  const refuse = { tag: "refuse", code: "WrongGuest", message: "m".repeat(1000), term: 1 } as const;
  expect(parseMessageText(encodeMessageText(stale))).toEqual({ ...stale, reason: "r".repeat(256) });
  expect(parseMessageText(encodeMessageText(refuse))).toEqual({ ...refuse, message: "m".repeat(256) });
});
