import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { aRecord, aRequest } from "../../test/quorum/records.ts";
import {
  encodeQuorumMessage,
  parseAnswerMessage,
  parseCallMessage,
  QuorumMessageDecoder,
  QuorumWireFailure,
  type CallMessage,
  type QuorumAnswer,
} from "./quorum-wire.ts";

const CALLS: readonly CallMessage[] = [
  { version: 1, id: 1, call: { tag: "health" } },
  { version: 1, id: 9, call: { tag: "remove", guest: "web-0123abcd" } },
  { version: 1, id: 2, call: { tag: "read", guest: "ns/guest" } },
  { version: 1, id: 3, call: { tag: "change", request: aRequest() } },
  { version: 1, id: 4, call: { tag: "change", request: aRequest({ change: { tag: "handOver", epoch: 5 } }) } },
  { version: 1, id: 5, call: { tag: "change", request: aRequest({ change: { tag: "takeOver" } }) } },
];
const ANSWERS: readonly QuorumAnswer[] = [
  { tag: "granted", changed: true, record: aRecord() },
  { tag: "refused", reason: "PeerStale", record: aRecord() },
  { tag: "refused", reason: "NoRecord", record: undefined },
  { tag: "record", record: undefined },
  { tag: "health", storeAnswers: true },
  { tag: "removed" },
  { tag: "unknown", why: "no leader" },
  { tag: "notDone", code: "ForeignNode", why: "b for a" },
];

describe("messages", () => {
  test("come out as they went in, however the stream is cut", () => {
    const bytes = Buffer.concat([
      ...CALLS.map(encodeQuorumMessage),
      ...ANSWERS.map((answer, id) => encodeQuorumMessage({ version: 1, id, answer })),
    ]);
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1 }), (sizes) => {
        const decoder = new QuorumMessageDecoder();
        const messages: unknown[] = [];
        for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
          const end = at + (sizes[turn % sizes.length] ?? 1);
          messages.push(...decoder.push(bytes.subarray(at, end)));
          at = end;
        }
        expect(messages.slice(0, CALLS.length).map(parseCallMessage)).toEqual(CALLS);
        expect(messages.slice(CALLS.length).map((message) => parseAnswerMessage(message).answer)).toEqual(ANSWERS);
      }),
      { numRuns: 50 },
    );
  });

  test("whatever arrives, only a Failure is thrown", () => {
    const onlyFailures = (act: () => unknown): boolean => {
      try {
        act();
        return true;
      } catch (error) {
        return error instanceof QuorumWireFailure;
      }
    };
    const check = <T>(arbitrary: fc.Arbitrary<T>, act: (value: T) => unknown): void => {
      fc.assert(fc.property(arbitrary, (value) => onlyFailures(() => act(value))));
    };
    check(fc.uint8Array({ maxLength: 300 }), (bytes) => new QuorumMessageDecoder().push(bytes));
    check(fc.jsonValue(), parseCallMessage);
    const call = { tag: fc.constantFrom("change", "read"), guest: fc.jsonValue(), request: fc.jsonValue() };
    check(fc.record({ version: fc.constant(1), id: fc.nat(), call: fc.record(call) }), parseCallMessage);
    const answer = { tag: fc.constantFrom("granted", "refused", "record"), record: fc.jsonValue() };
    check(fc.record({ id: fc.nat(), answer: fc.record(answer) }), parseAnswerMessage);
  });

  test("a message longer than allowed is refused by its length alone", () => {
    const head = Buffer.alloc(4);
    head.writeUInt32BE(16 * 1024 + 1);
    expect(() => new QuorumMessageDecoder().push(head)).toThrow("at most 16384");
  });
});
