/** Two quorums are one: whatever is lost, late or repeated, at most one decides, and all its changes follow one another. */
import { describe, expect, test } from "@jest/globals";
import { decideQuorumRequest, type QuorumRecord } from "../../src/protocol/quorum-record.ts";
import { findSeat } from "../../src/protocol/quorum-seat.ts";
import { exploreSeats, productionSeatRules, type SeatRules } from "./seats.ts";

test("every world of eight versions", () => {
  const { worldsCount, movesCount, problem } = exploreSeats(8);
  expect(problem).toBeUndefined();
  expect(worldsCount).toBeGreaterThan(1_000);
  expect(movesCount).toBeGreaterThan(worldsCount);
});

type Broken = { readonly rule: string; readonly rules: Partial<SeatRules>; readonly finds: RegExp };

const withoutMove = (record: QuorumRecord | undefined): QuorumRecord | undefined =>
  record === undefined ? undefined : { ...record, movedTo: undefined };

const broken: readonly Broken[] = [
  {
    rule: "what is frozen can still be changed",
    rules: {
      decide: (record, request) =>
        decideQuorumRequest(request.change.tag === "settle" ? record : withoutMove(record), request),
    },
    finds: /both quorums decide|a move changed more|comes after/,
  },
  {
    rule: "what is settled may be older than what was there",
    rules: {
      decide: (record, request) =>
        request.change.tag === "settle" && record?.movedTo !== undefined
          ? decideQuorumRequest(undefined, request)
          : decideQuorumRequest(record, request),
    },
    finds: /both quorums decide|comes after/,
  },
  {
    rule: "a live record is overwritten by what is settled",
    rules: {
      decide: (record, request) => decideQuorumRequest(request.change.tag === "settle" ? undefined : record, request),
    },
    finds: /both quorums decide|comes after/,
  },
  {
    rule: "a quorum without a record counts as no record anywhere",
    rules: {
      find: (readings) => {
        const { alternate } = readings;
        return alternate.tag === "read" && alternate.record === undefined ? { tag: "none" } : findSeat(readings);
      },
    },
    finds: /believes that there is no record/,
  },
];

describe("it is found that", () => {
  test.each(broken)("$rule", ({ rules, finds }) => {
    expect(exploreSeats(6, { ...productionSeatRules, ...rules }).problem).toMatch(finds);
  });
});
