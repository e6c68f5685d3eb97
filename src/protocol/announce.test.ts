/** Who tells switches where the guest is: what clients send while nobody runs it has to wait where it will be read. */
import { describe, expect, test } from "@jest/globals";
import { buildSide, record, session } from "../../test/build/protocol-side.ts";
import { present } from "../lib/assert.ts";
import { type Message, PROTOCOL_VERSION } from "./messages.ts";
import { decideQuorumRequest } from "./quorum-record.ts";
import { step } from "./side.ts";
import { type Effect, type Side, type SideEvent, type SideState } from "./side-state.ts";

const epochs = { first: 5, captured: 7, acked: 7 };
const inSession = { session, link: "one", mode: "FaultTolerant", isResuming: false } as const;
const protectedState = { role: "primary", tag: "protected", ...inSession, epochs } as const;
const holding = { role: "standby", tag: "holding", session, term: 2, epoch: 7, expectsGuest: false } as const;

const sideIn = (node: "a" | "b", state: SideState, links: readonly string[]): Side => buildSide(node, state, links, 7);

function effectsOf(side: Side, event: SideEvent): readonly Effect["tag"][] {
  return step(side, event).effects.map(({ tag }) => tag);
}

describe("a standby that may have to take over", () => {
  const holds = (links: readonly string[]): Side => sideIn("b", { ...holding, link: "one" }, links);
  const lost = (link: string): SideEvent => ({ tag: "linkDown", link, by: "silent" });
  const told = (message: Message): SideEvent => ({ tag: "received", link: "one", message });

  test("announces the guest when the last link is gone, before it asks", () => {
    const effects = effectsOf(holds(["one"]), lost("one"));
    expect(effects).toContain("announceGuest");
    expect(effects).not.toContain("readRecord");
  });

  test("not while the other side is heard on another link", () => {
    expect(effectsOf(holds(["one", "two"]), lost("one"))).not.toContain("announceGuest");
  });

  test.each<Message>([
    { tag: "guestDied", epoch: 7 },
    { tag: "handOver", session, epoch: 7, term: 3 },
  ])("announces it at once when told $tag", (message) => {
    const effects = effectsOf(holds(["one", "two"]), told(message));
    expect(effects).toContain("announceGuest");
    expect(effects.indexOf("announceGuest")).toBeLessThan(effects.findIndex((tag) => /activate|readRecord/.test(tag)));
  });
});

describe("a hand-over", () => {
  const begun = step(sideIn("a", protectedState, ["one"]), { tag: "switchoverAsked" }).side;
  const stopped = step(begun, { tag: "captured", session, epoch: 8, final: true });
  const expectGuest: Message = { tag: "expectGuest", session };

  test("is told to the standby as soon as the guest is stopped, before the quorum is asked", () => {
    const { effects } = step(sideIn("a", protectedState, ["one"]), { tag: "switchoverAsked" });
    expect(effects).toEqual([{ tag: "captureFinal" }, { tag: "send", link: "one", message: expectGuest }]);
  });

  test("and again when output has left here, by which switches learn the way back", () => {
    const acked = step(stopped.side, { tag: "received", link: "one", message: { tag: "ack", session, epoch: 8 } });
    const tags = acked.effects.map((effect) => (effect.tag === "send" ? effect.message.tag : effect.tag));
    expect(tags.filter((tag) => /releaseOutput|expectGuest|askQuorum/.test(tag))).toEqual([
      "releaseOutput",
      "expectGuest",
      "askQuorum",
    ]);
  });

  test("the standby announces the guest then, and keeps what comes in, also when the last epoch comes later", () => {
    const standby = sideIn("b", { ...holding, link: "one" }, ["one"]);
    const told = step(standby, { tag: "received", link: "one", message: expectGuest });
    expect(told.effects.map(({ tag }) => tag)).toEqual(["announceGuest"]);
    const held = step(told.side, { tag: "epochHeld", session, epoch: 8 }).side;
    expect(held.state).toMatchObject({ tag: "holding", epoch: 8, expectsGuest: true });
  });

  test("of another session is none of the standby's business", () => {
    const standby = sideIn("b", { ...holding, link: "one" }, ["one"]);
    expect(effectsOf(standby, { tag: "received", link: "one", message: { ...expectGuest, session: "2.n.0" } })).toEqual(
      [],
    );
  });

  test("that the quorum refuses leaves the guest here, announced again", () => {
    const acked = step(stopped.side, { tag: "received", link: "one", message: { tag: "ack", session, epoch: 8 } }).side;
    const refused = step(acked, {
      tag: "quorumAnswered",
      requestId: present(acked.ask, "a question").request.requestId,
      outcome: { tag: "refused", reason: "VersionMismatch", record: { ...record, version: 5 } },
    }).side;
    const { request } = present(refused.ask, "a question");
    const outcome = decideQuorumRequest({ ...record, version: 5 }, request);
    expect(effectsOf(refused, { tag: "quorumAnswered", requestId: request.requestId, outcome })).toContain(
      "announceGuest",
    );
  });
});

describe("a primary that stays the owner", () => {
  const lose = (side: Side): Side => step(side, { tag: "linkDown", link: "one", by: "silent" }).side;
  const arbitrating = lose(sideIn("a", protectedState, ["one"]));
  const grant = (side: Side): SideEvent => {
    const request = present(side.ask, "a question").request;
    const decision = decideQuorumRequest(record, request);
    return { tag: "quorumAnswered", requestId: request.requestId, outcome: decision };
  };

  test("takes the guest's addresses back when it may go on alone", () => {
    const effects = effectsOf(arbitrating, grant(arbitrating));
    expect(effects.indexOf("announceGuest")).toBeGreaterThan(effects.indexOf("openOutput"));
    expect(effects).toContain("openOutput");
  });

  test("and when the standby is back before the quorum has answered", () => {
    const up = step(arbitrating, { tag: "linkUp", link: "one" }).side;
    const holds = { session, epoch: 7 };
    const message: Message = { tag: "welcome", version: PROTOCOL_VERSION, node: "b", term: 2, holds, disksKnown: true };
    const back = step(up, { tag: "received", link: "one", message }).side;
    expect(back.state).toMatchObject({ tag: "syncing", held: true });
    expect(effectsOf(back, grant(back))).toContain("announceGuest");
  });
});
