/** A guest that is to run on unprotected: what its owner does first, state by state, and that the other side does nothing. */
import { describe, expect, test } from "@jest/globals";
import { buildSide, holding, record, session } from "../../test/build/protocol-side.ts";
import { type QuorumRecord } from "./quorum-record.ts";
import { step } from "./side.ts";
import { type Effect, type PrimaryState, type Side, type SideEvent } from "./side-state.ts";

const mode = "FaultTolerant";
const epochs = { first: 5, captured: 9, acked: 8 };

const sideIn = (state: PrimaryState): Side => buildSide("a", { role: "primary", ...state }, ["one"], 9);

function tell(
  side: Side,
  ...events: readonly SideEvent[]
): { readonly side: Side; readonly effects: readonly Effect[] } {
  return events.reduce<{ side: Side; effects: readonly Effect[] }>(
    (before, event) => {
      const after = step(before.side, event);
      return {
        side: after.side,
        effects: [...before.effects, ...after.effects],
      };
    },
    { side, effects: [] },
  );
}

const tags = (effects: readonly Effect[]): readonly string[] => effects.map(({ tag }) => tag);
const release: SideEvent = { tag: "releaseAsked" };

describe("the owner that is to release its guest", () => {
  test("ends at once where it runs alone, its output open", () => {
    const { side, effects } = tell(sideIn({ tag: "alone", last: null }), release);
    expect(side.state).toEqual({ tag: "ended", reason: "released" });
    expect(effects.filter(({ tag }) => tag === "openOutput" || tag === "exit")).toEqual([
      { tag: "openOutput" },
      expect.objectContaining({ tag: "exit", reason: "released" }),
    ]);
  });

  test("throws a copy away that nobody has declared, and ends", () => {
    const { side, effects } = tell(
      sideIn({
        tag: "syncing",
        session,
        link: "one",
        mode,
        held: false,
        copied: true,
      }),
      release,
    );
    expect(side.state).toEqual({ tag: "ended", reason: "released" });
    expect(tags(effects)).toEqual(["endSession", "closeLink", "openOutput", "exit"]);
  });

  test("gives a standby in sync up first: the quorum's leave, then output, then the end", () => {
    const asked = tell(sideIn({ tag: "protected", session, link: "one", mode, epochs, isResuming: false }), release);
    expect(asked.side.state).toMatchObject({
      role: "primary",
      tag: "arbitrating",
    });
    expect(tags(asked.effects)).not.toContain("openOutput");
    const ask = asked.effects.find((effect) => effect.tag === "askQuorum");
    const requestId = ask?.tag === "askQuorum" ? ask.request.requestId : "";
    expect(ask).toMatchObject({ request: { change: { tag: "runAlone" } } });

    const waiting = tell(asked.side, release);
    expect(waiting).toEqual({ side: asked.side, effects: [] });

    const alone: QuorumRecord = { ...record, version: 5, peerState: "Stale" };
    const granted: SideEvent = {
      tag: "quorumAnswered",
      requestId,
      outcome: { tag: "granted", changed: true, record: alone },
    };
    const { side, effects } = tell(asked.side, granted, release);
    expect(side.state).toEqual({ tag: "ended", reason: "released" });
    expect(tags(effects)).not.toContain("killGuest");
    expect(tags(effects).at(-1)).toBe("exit");
  });

  test("is fenced like any other when the standby was faster", () => {
    const asked = tell(
      sideIn({
        tag: "declaring",
        session,
        link: "one",
        mode,
        held: false,
        epochs,
        asked: true,
      }),
      release,
    );
    const taken: QuorumRecord = {
      ...record,
      version: 5,
      term: 3,
      owner: "b",
      peer: "a",
      peerState: "Stale",
    };
    const ask = asked.effects.find((effect) => effect.tag === "askQuorum");
    const { side, effects } = tell(asked.side, {
      tag: "quorumAnswered",
      requestId: ask?.tag === "askQuorum" ? ask.request.requestId : "",
      outcome: { tag: "refused", reason: "VersionMismatch", record: taken },
    });
    expect(side.state).toEqual({ tag: "ended", reason: "fenced" });
    expect(tags(effects)).toContain("discardOutput");
  });

  test.each<PrimaryState>([
    { tag: "arbitrating", last: null, paused: false },
    { tag: "syncing", session, link: "one", mode, held: true, copied: false },
    {
      tag: "handingOver",
      session,
      link: "one",
      mode,
      epochs,
      isResuming: false,
      finalEpoch: 0,
      asked: false,
      lost: false,
    },
    { tag: "coldWaiting", asking: true },
    { tag: "booting" },
  ])("waits for what is under way while it is $tag", (state) => {
    const side = sideIn(state);
    expect(tell(side, release)).toEqual({ side, effects: [] });
  });
});

test("a standby that is to release the guest goes on as it is: it is not its to release", () => {
  const side = buildSide("b", holding, ["one"], 9);
  expect(tell(side, release)).toEqual({ side, effects: [] });
});
