/** A session whose link is lost while another one is up: it goes on there, and nobody was ever without protection. */
import { describe, expect, test } from "@jest/globals";
import { buildSide, holding, session } from "../../test/build/protocol-side.ts";
import { type Message } from "./messages.ts";
import { step } from "./side.ts";
import { type Effect, type Side, type SideEvent, type SideState, type Step } from "./side-state.ts";

const inSession = { session, link: "one", mode: "FaultTolerant", isResuming: false } as const;
const epochs = { first: 5, captured: 9, acked: 7 };
const protectedState = { role: "primary", tag: "protected", ...inSession, epochs } as const;

function sideIn(node: "a" | "b", state: SideState, links: readonly string[] = ["one", "two"]): Side {
  return { ...buildSide(node, state, links, 9), timers: ["ackOverdue"] };
}

const lose = (side: Side, link = "one"): Step => step(side, { tag: "linkDown", link, by: "silent" });
const hear = (side: Side, message: Message, link = "two"): Step => step(side, { tag: "received", link, message });
const tags = (effects: readonly Effect[]): readonly Effect["tag"][] => effects.map(({ tag }) => tag);

describe("a primary that loses the link of its data", () => {
  const resuming = lose(sideIn("a", protectedState));

  test("asks the standby on another one how far it came, and the quorum nothing", () => {
    expect(resuming.side.state).toMatchObject({ tag: "protected", link: "two", isResuming: true });
    expect(resuming.effects).toContainEqual({ tag: "send", link: "two", message: { tag: "resume", session } });
    expect(tags(resuming.effects)).not.toContain("askQuorum");
    expect(tags(resuming.effects)).not.toContain("endSession");
  });

  test("goes on from there: what was acknowledged and not heard is released, the rest is sent again", () => {
    const { side, effects } = hear(resuming.side, { tag: "resumed", session, epoch: 8 });
    expect(side.state).toMatchObject({ tag: "protected", isResuming: false, epochs: { captured: 9, acked: 8 } });
    expect(effects).toContainEqual({ tag: "releaseOutput", throughEpoch: 8 });
    expect(effects).toContainEqual({ tag: "resumeStream", session, link: "two", from: 9 });
    expect(side.timers).toContain("ackOverdue");
  });

  test("has nothing to wait for when the standby has it all", () => {
    const { side } = hear(resuming.side, { tag: "resumed", session, epoch: 9 });
    expect(side.timers).not.toContain("ackOverdue");
  });

  test.each<[string, SideEvent]>([
    ["the other link is lost too", { tag: "linkDown", link: "two", by: "silent" }],
    ["the standby says nothing", { tag: "timerFired", timer: "ackOverdue" }],
    [
      "the standby does not hold the session",
      { tag: "received", link: "two", message: { tag: "stale", session, reason: "another" } },
    ],
    ["what was sent can never become whole", { tag: "sessionFailed", session }],
  ])("asks the quorum when %s", (_, event) => {
    const { side, effects } = step(resuming.side, event);
    expect(side.state).toMatchObject({ tag: "arbitrating" });
    expect(tags(effects)).toContain("askQuorum");
  });

  test.each([
    ["epochs that were never captured", 10],
    ["fewer epochs than it has acknowledged", 6],
  ])("does not believe a standby that claims %s", (_, epoch) => {
    const { side, effects } = hear(resuming.side, { tag: "resumed", session, epoch });
    expect(side.state).toMatchObject({ isResuming: true, epochs });
    expect(effects).toEqual([]);
  });

  test("takes no word for one that was asked for on another link", () => {
    expect(hear(resuming.side, { tag: "resumed", session, epoch: 8 }, "one").effects).toEqual([]);
  });

  test("hands over as asked, once the standby has the last epoch", () => {
    const asked = step(resuming.side, { tag: "switchoverAsked" }).side;
    const captured = step(asked, { tag: "captured", session, epoch: 10, final: true }).side;
    const resumed = hear(captured, { tag: "resumed", session, epoch: 9 });
    expect(resumed.effects).toContainEqual({ tag: "resumeStream", session, link: "two", from: 10 });
    expect(tags(hear(resumed.side, { tag: "ack", session, epoch: 10 }).effects)).toContain("askQuorum");
  });

  test.each<[string, SideState, readonly string[]]>([
    ["there is no other", protectedState, ["one"]],
    [
      "its memory is not whole there yet",
      { ...protectedState, epochs: { first: 9, captured: 9, acked: 7 } },
      ["one", "two"],
    ],
    ["the level is HighAvailability", { ...protectedState, mode: "HighAvailability" }, ["one", "two"]],
  ])("has lost the standby where %s", (_, state, links) => {
    expect(lose(sideIn("a", state, links)).side.state).toMatchObject({ tag: "arbitrating" });
  });
});

describe("a standby that is asked to go on on another link", () => {
  test.each([
    ["one that is still up here", "one"],
    ["one that is gone here as well", null],
  ])("throws away what is not whole and says what it holds, for %s", (_, link) => {
    const { side, effects } = hear(sideIn("b", { ...holding, link }), { tag: "resume", session });
    expect(side.state).toMatchObject({ tag: "holding", link: "two", epoch: 8 });
    expect(effects).toEqual([
      { tag: "discardStaged" },
      { tag: "send", link: "two", message: { tag: "resumed", session, epoch: 8 } },
    ]);
  });

  test.each<[string, SideState]>([
    ["has begun anew", { role: "standby", tag: "waiting", ready: true }],
    ["holds another session", { ...holding, session: "2.n.0" }],
    ["is being copied to", { role: "standby", tag: "receiving", session, link: "one", term: 2 }],
  ])("says at once that it cannot when it %s", (_, state) => {
    const { side, effects } = hear(sideIn("b", state), { tag: "resume", session });
    expect(side.state).toEqual(state);
    expect(effects).toMatchObject([{ tag: "send", link: "two", message: { tag: "stale", session } }]);
  });
});
