import { describe, expect, test } from "@jest/globals";
import { spawnSync } from "node:child_process";
import { SHELLS } from "./command-table.ts";
import { completeNames, planCompletion, writeCandidates, writeScript } from "./completion.ts";

const words = (line: string): readonly string[] => line.split(" ");
const suggest = (line: string): readonly string[] => {
  const plan = planCompletion(words(line));
  return plan.tag === "words" ? plan.candidates.map(({ word }) => word) : [plan.tag];
};

describe("what could come next", () => {
  test.each([
    { line: "sw", next: ["switchover"] },
    { line: "-n shop st", next: ["status"] },
    { line: "status -o ", next: ["table", "wide", "json", "yaml", "name"] },
    { line: "status --output=j", next: ["json"] },
    { line: "status --output = j", next: ["json"] },
    { line: "switchover web --t", next: ["--to", "--timeout"] },
    { line: "describe web ", next: [] },
    { line: "completion ", next: ["bash", "zsh", "fish"] },
    { line: "help doc", next: ["doctor"] },
    { line: "version ", next: [] },
    { line: "logs -f ", next: ["files"] },
    { line: "switchover web --timeout ", next: [] },
  ])("$line", ({ line, next }) => {
    expect(suggest(line)).toEqual(next);
  });

  test.each([
    { line: "describe -n shop w", what: "protectedVm", prefix: "w", flags: { namespace: "shop" } },
    { line: "protect ", what: "virtualMachine", prefix: "", flags: {} },
    { line: "maintenance no", what: "node", prefix: "no", flags: {} },
    { line: "protect web --nodes node-a,no", what: "node", prefix: "node-a,no", flags: {} },
    { line: "status --context=east -n ", what: "namespace", prefix: "", flags: { context: "east" } },
  ])("the cluster knows: $line", ({ line, what, prefix, flags }) => {
    expect(planCompletion(words(line))).toEqual({ tag: "ask", what, prefix, flags });
  });

  test.each([
    { line: "faults -A c", given: [] },
    { line: "faults clear w", given: ["clear"] },
    { line: "faults clear -n shop web node-a/", given: ["clear", "web"] },
  ])("faults are asked for by what stands before: $line", ({ line, given }) => {
    expect(planCompletion(words(line))).toMatchObject({ tag: "ask", what: "fault", given });
  });

  test("a list is completed after its last comma, without what it has", () => {
    expect(completeNames(["node-a", "node-b", "other"], "node-a,no")).toEqual([{ word: "node-a,node-b" }]);
  });

  test("the last line says what a shell should do besides", () => {
    expect(writeCandidates([{ word: "a", says: "b" }, { word: "c" }])).toEqual(["a\tb", "c", ":4"]);
    expect(writeCandidates("files")).toEqual([":0"]);
  });
});

test.each(SHELLS.filter((shell) => spawnSync(shell, ["--version"]).status === 0))("%s takes its script", (shell) => {
  expect(spawnSync(shell, ["-n"], { input: writeScript(shell), encoding: "utf8" })).toMatchObject({
    status: 0,
    stderr: "",
  });
});
