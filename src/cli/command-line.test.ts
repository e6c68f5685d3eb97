import { describe, expect, test } from "@jest/globals";
import { CliFailure } from "./cli-failure.ts";
import { parseCommandLine } from "./command-line.ts";
import { parseDraft } from "./protection-draft.ts";

const parse = (line: string) => parseCommandLine(line === "" ? [] : line.split(" "));

describe("a command line that is right", () => {
  test.each([
    { line: "", command: "help" },
    { line: "--help", command: "help" },
    { line: "status", command: "status" },
    { line: "-n shop status web", command: "status", names: ["web"] },
    { line: "status web db -o wide -w", command: "status", names: ["web", "db"] },
    { line: "switchover web --to=node-b --no-wait", command: "switchover", names: ["web"] },
    { line: "doctor -h", command: "help", names: ["doctor"] },
    { line: "help doctor", command: "help", names: ["doctor"] },
    { line: "version --client", command: "version" },
    { line: "status web -o=json -n=shop", command: "status", names: ["web"] },
  ])("$line", ({ line, command, names = [] }) => {
    expect(parse(line)).toMatchObject({ command, names });
  });

  test("its values are typed", () => {
    const { texts, numbers, switches, refused } = parse("logs -n shop --since 2h --tail 50 -A");
    expect(texts.get("namespace")).toBe("shop");
    expect(Object.fromEntries(numbers)).toEqual({ since: 7_200_000, tail: 50 });
    expect([...switches]).toEqual(["all-namespaces"]);
    expect([...refused]).toEqual([]);
    expect([...parse("failover web --no-wait").refused]).toEqual(["wait"]);
  });
});

describe("a command line that is wrong names the part and what would be right", () => {
  test.each([
    { line: "statsu", says: "there is no command statsu; did you mean status?" },
    { line: "frobnicate", says: "commands are status, describe, protect" },
    { line: "status --wacth", says: "there is no flag --wacth; did you mean --watch?" },
    { line: "status --yes", says: "status takes no --yes; it belongs to unprotect, failover" },
    { line: "describe", says: "describe needs NAME, as in: kubectl twinrun describe web -n shop" },
    { line: "describe a b", says: "describe takes NAME, and not also: b" },
    { line: "version a", says: "version takes no argument, and not also: a" },
    { line: "status -o html", says: "--output of status must be table or wide or json or yaml or name, not html" },
    { line: "switchover web --timeout soon", says: "--timeout must be a duration such as 500ms, 30s or 5m, not soon" },
    { line: "logs --tail all", says: "--tail must be a whole number, not all" },
    { line: "status --namespace=", says: "--namespace must not be empty" },
    { line: "status -n", says: "argument missing" },
  ])("$line", ({ line, says }) => {
    expect(() => parse(line)).toThrow(CliFailure);
    expect(() => parse(line)).toThrow(says);
  });
});

describe("the ProtectedVM of a command line", () => {
  const draft = (line: string) => parseDraft(parse(line), "shop");

  test("holds what was said and nothing else", () => {
    expect(draft("protect web --nodes node-a,node-b --detection-timeout 1s --allow-restart").object).toEqual({
      apiVersion: "twinrun.dev/v1alpha1",
      kind: "ProtectedVM",
      metadata: { name: "web", namespace: "shop", annotations: { "twinrun.dev/allow-restart": "true" } },
      spec: {
        mode: "FaultTolerant",
        virtualMachineRef: { name: "web" },
        placement: { nodes: ["node-a", "node-b"] },
        failover: { detectionTimeoutMs: 1_000 },
      },
    });
    expect(draft("protect web --selector rack=1,disk=ssd --name safe --mode HighAvailability").object).toMatchObject({
      metadata: { name: "safe" },
      spec: { mode: "HighAvailability", placement: { nodeSelector: { rack: "1", disk: "ssd" } } },
    });
  });

  test.each([
    {
      line: "protect web --nodes node-a",
      says: '--nodes must name two different nodes, as in --nodes node-a,node-b; found "node-a"',
    },
    { line: "protect web --nodes a,a", says: "--nodes must name two different nodes" },
    { line: "protect web --nodes a,b --selector x=y", says: "--nodes and --selector do not go together" },
    { line: "protect web --selector rack", says: '--selector must be KEY=VALUE,..., and "rack" is no such pair' },
    {
      line: "protect web --nodes a,b --detection-timeout 1ms",
      says: "spec.failover.detectionTimeoutMs: must be a whole number from 50",
    },
    { line: "protect web --nodes a,b --mode ha", says: "spec.mode: must be FaultTolerant or HighAvailability" },
    { line: "protect Web --nodes a,b", says: "metadata.name: must be the name of an object" },
  ])("$line", ({ line, says }) => {
    expect(() => draft(line)).toThrow(says);
  });
});
