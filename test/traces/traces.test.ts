/** The trace checker: takes what engines write, and nothing else. Good traces come from the simulator. */
import { describe, expect, test } from "@jest/globals";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeTraceHead, parseTraceLine, TraceFailure } from "../../src/protocol/trace.ts";
import { startSide, step } from "../../src/protocol/side.ts";
import { type Effect, type SideEvent } from "../../src/protocol/side-state.ts";
import { type StepFunction } from "./replay.ts";
import { TraceCheck, type TraceReport } from "./trace-check.ts";
import { World } from "../sim/world.ts";

type Traces = { readonly a: string; readonly b: string };

function checkTraces({ a, b }: Traces, stepWith?: StepFunction): TraceReport {
  const check = new TraceCheck(stepWith);
  check.takeFile("web.a.jsonl", [a]);
  check.takeFile("web.b.jsonl", [b]);
  return check.report();
}

function listProblems(traces: Traces, stepWith?: StepFunction): string {
  return checkTraces(traces, stepWith).lines.join("\n");
}

/** A run in which much happens. */
function simulate(): Traces {
  for (let seed = 1; seed < 500; seed += 1) {
    const outcome = new World(seed, { keepsTraces: true }).run();
    if (outcome.takeovers >= 2 && outcome.deltas >= 1 && outcome.violation === undefined) {
      return outcome.traces;
    }
  }
  throw new Error("no seed below 500 has two takeovers and a delta");
}

const good = simulate();
/** The trace with the takeover in it. */
const taker = good.a.includes('"activate"') ? "a" : "b";

/** Changes the first line that has all the `marks`. */
function changeLine(text: string, marks: readonly string[], change: (line: string) => string): string {
  const lines = text.split("\n");
  const index = lines.findIndex((line) => marks.every((mark) => line.includes(mark)));
  expect(index).toBeGreaterThanOrEqual(0);
  lines[index] = change(lines[index] ?? "");
  return lines.join("\n");
}

describe("good traces", () => {
  test("of simulated runs are accepted", () => {
    for (let seed = 1; seed <= 60; seed += 1) {
      const { traces } = new World(seed, { keepsTraces: true }).run();
      expect(listProblems(traces)).toMatch(/all accepted$/);
    }
  });

  test("of pairs of HighAvailability, and of both levels in turn, are accepted", () => {
    let leases = 0;
    for (let seed = 1; seed <= 40; seed += 1) {
      const options = { keepsTraces: true, mode: "HighAvailability", changesMode: seed % 2 === 0 } as const;
      const { traces } = new World(seed, options).run();
      leases += `${traces.a}${traces.b}`.split('"leaseOutput"').length - 1;
      expect(listProblems(traces)).toMatch(/all accepted$/);
    }
    expect(leases).toBeGreaterThan(40);
  });

  test("arrive in pieces of any size", () => {
    const check = new TraceCheck();
    check.takeFile("web.a.jsonl", good.a.match(/[^]{1,97}/g) ?? []);
    check.takeFile("web.b.jsonl", [good.b]);
    expect(check.report()).toEqual(checkTraces(good));
  });

  test("may end in the middle of a line, wherever the process was killed", () => {
    for (let cut = good.a.length - 400; cut < good.a.length; cut += 7) {
      expect(listProblems({ a: good.a.slice(0, cut), b: "" })).toMatch(/all accepted$/);
    }
  });

  test("a cut line may be followed by the head of the next process", () => {
    const lines = good.a.trimEnd().split("\n");
    const head = encodeTraceHead(
      startSide({ guest: "web", node: "a", peer: "b", createsRecord: true, mode: "FaultTolerant", nonce: "n" }),
      0,
    );
    const kept = lines.slice(0, 20).join("\n");
    expect(listProblems({ a: `${kept}\n${lines[20]?.slice(0, 31) ?? ""}${head}`, b: "" })).toMatch(/all accepted$/);
  });
});

describe("traces that are refused", () => {
  test("none at all", () => {
    expect(listProblems({ a: "", b: "" })).toContain("there is no trace to check");
    expect(new TraceCheck().report().isGood).toBe(false);
  });

  test("a state that the machine does not reach", () => {
    const changed = changeLine(good[taker], ['"state":"holding"'], (line) => line.replace('"holding"', '"protected"'));
    expect(listProblems({ ...good, [taker]: changed })).toMatch(/wrote state "protected", replayed it is "holding"/);
  });

  test("an effect that the machine did not want", () => {
    const changed = changeLine(good[taker], ['"effects":[]'], (line) => line.replace("[]", '["openOutput"]'));
    expect(listProblems({ ...good, [taker]: changed })).toMatch(/wrote effects "openOutput"/);
  });

  test("a line that is missing", () => {
    const lines = good[taker].split("\n");
    const index = lines.findIndex((line) => line.includes('"syncBegin"'));
    lines.splice(index, 1);
    expect(checkTraces({ ...good, [taker]: lines.join("\n") }).isGood).toBe(false);
  });

  test("a line cut in the middle that is not the last of its process", () => {
    const changed = changeLine(good.a, ['"effects"'], (line) => line.slice(0, 40));
    expect(listProblems({ ...good, a: changed })).toMatch(/line is no JSON/);
  });

  test("an event without the head of its process", () => {
    expect(listProblems({ ...good, a: good.a.split("\n").slice(1).join("\n") })).toContain("before the head");
  });

  test("two owners of one term", () => {
    const changed = good.b.replaceAll('"owner":"a","peer":"b"', '"owner":"b","peer":"a"');
    expect(listProblems({ ...good, b: changed })).toMatch(/two owners|differs from what another engine was told/);
  });

  test("of a machine that breaks a rule, although each engine replays", () => {
    const hasty: StepFunction = (side, event) => {
      const stepped = step(side, event);
      return event.tag === "captured"
        ? { ...stepped, effects: [...stepped.effects, { tag: "releaseOutput", throughEpoch: event.epoch }] }
        : stepped;
    };
    for (let seed = 1; seed <= 50; seed += 1) {
      const { traces } = new World(seed, { keepsTraces: true, rules: { ...new World(0).rules, step: hasty } }).run();
      if (traces.a.includes("releaseOutput")) {
        expect(listProblems(traces, hasty)).toContain("was released before its acknowledgement came");
        return;
      }
    }
    throw new Error("no seed released anything");
  });

  test.each([
    {
      when: "a lease of a pair that holds its output",
      mode: "FaultTolerant",
      change: ({ event }: { readonly event: SideEvent }, effects: readonly Effect[]): readonly Effect[] =>
        event.tag === "captured" ? [...effects, { tag: "leaseOutput" }] : effects,
      says: "output passes by a lease",
    },
    {
      when: "a guest of HighAvailability that runs on while the quorum is asked",
      mode: "HighAvailability",
      change: (_: unknown, effects: readonly Effect[]): readonly Effect[] =>
        effects.filter(({ tag }) => tag !== "pauseGuest"),
      says: "the quorum is asked after a loss in protected while the guest runs",
    },
  ] as const)("of $when, although each engine replays", ({ mode, change, says }) => {
    const broken: StepFunction = (side, event) => {
      const stepped = step(side, event);
      return { ...stepped, effects: change({ event }, stepped.effects) };
    };
    const rules = { ...new World(0).rules, step: broken };
    const isSeen = Array.from({ length: 50 }, (_, index) => index + 1).some((seed) => {
      const { traces } = new World(seed, { keepsTraces: true, mode, rules }).run();
      return listProblems(traces, broken).includes(says);
    });
    expect(isSeen).toBe(true);
  });

  test("of a standby that takes a term over twice", () => {
    const doubled = `${good[taker]}${good[taker]}`;
    expect(listProblems({ ...good, [taker]: doubled })).toContain("is activated twice");
  });

  test("of a takeover that takes back what was released", () => {
    const session = /"activate"/.test(good[taker]) ? findActivation(good[taker]) : undefined;
    expect(session).toBeDefined();
    const other = taker === "a" ? "b" : "a";
    const withoutLast = dropLastHeld(good[taker], session ?? "");
    expect(listProblems({ [other]: good[other], [taker]: withoutLast } as Traces)).toMatch(
      /takeover at epoch|wrote epoch|wrote state/,
    );
  });
});

function findActivation(text: string): string | undefined {
  const lines = text.split("\n");
  const index = lines.findIndex((line) => line.includes('"activate"'));
  const held = lines.slice(0, index).findLast((line) => line.includes('"epochHeld"'));
  return held === undefined ? undefined : (JSON.parse(held) as { event: { session: string } }).event.session;
}

function dropLastHeld(text: string, session: string): string {
  const lines = text.split("\n");
  const index = lines.findLastIndex((line) => line.includes('"epochHeld"') && line.includes(session));
  return lines.filter((_, at) => at !== index).join("\n");
}

describe("lines", () => {
  const head = encodeTraceHead(
    startSide({ guest: "g", node: "a", peer: "b", createsRecord: true, mode: "FaultTolerant", nonce: "n" }),
    5,
  );
  const event = '{"atMs":1,"event":{"tag":"linkUp","link":"one"},"state":"waiting","epoch":0,"effects":[]}';

  test("that are good are parsed", () => {
    expect(parseTraceLine(head)).toMatchObject({ tag: "head", atMs: 5, side: { guest: "g", node: "a" } });
    expect(parseTraceLine(event)).toMatchObject({ tag: "event", event: { tag: "linkUp", link: "one" } });
  });

  test.each([
    ["no JSON", event.slice(0, 30), /no JSON/],
    ["no object", "[]", /no object/],
    ["too long", `{"atMs":1,"state":"${"x".repeat(70_000)}"}`, /more than 65536/],
    ["another version", head.replace('"trace":2', '"trace":3'), /is not 2/],
    ["a side that is not fresh", head.replace('"epoch":0', '"epoch":3'), /before its first event/],
    ["a side with an unknown field", head.replace('"epoch":0', '"epoch":0,"more":1'), /before its first event/],
    ["an unknown field", event.replace('"epoch"', '"more":1,"epoch"'), /line.more is unknown/],
    ["a missing field", event.replace('"epoch":0,', ""), /line.epoch is missing/],
    ["an unknown event", event.replace("linkUp", "linkSideways"), /line.event.tag is none of/],
    ["an event without its field", event.replace(',"link":"one"', ""), /line.event.link is missing/],
    ["an inherited name for an event", event.replace("linkUp", "toString"), /line.event.tag is none of/],
    ["an epoch below zero", event.replace('"epoch":0', '"epoch":-1'), /no whole number/],
    ["a time that is none", event.replace('"atMs":1', '"atMs":"1"'), /no time/],
  ])("that have %s are refused", (_, line, says) => {
    expect(() => parseTraceLine(line)).toThrow(says);
    expect(() => parseTraceLine(line)).toThrow(TraceFailure);
  });
});

describe("the command", () => {
  test("says what it did by its exit status", () => {
    const directory = mkdtempSync(join(tmpdir(), "twinrun-traces-"));
    const run = (): string =>
      execFileSync(process.execPath, [join(import.meta.dirname, "main.ts"), directory], { encoding: "utf8" });
    try {
      expect(run).toThrow(/Command failed/);
      writeFileSync(join(directory, "web.a.jsonl"), good.a);
      writeFileSync(join(directory, "web.b.jsonl"), good.b);
      expect(run()).toContain("all accepted");
      writeFileSync(join(directory, "web.b.jsonl"), good.b.replaceAll('"holding"', '"receiving"'));
      expect(run).toThrow(/Command failed/);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
