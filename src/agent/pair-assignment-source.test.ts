import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, jest, test } from "@jest/globals";
import { buildReport } from "../../test/build/engine-report.ts";
import { buildReportedSide } from "../../test/build/guest-pair-rows.ts";
import { buildGuestPair, buildSide } from "../../test/build/resources.ts";
import { type GuestAssignment } from "../protocol/assignment.ts";
import { silentLog } from "../telemetry/log.ts";
import { type PairWatch, PairAssignmentSource } from "./pair-assignment-source.ts";

/** The cluster as a test wants it. */
class FakeWatch implements PairWatch {
  objects: readonly unknown[] | undefined;
  onChanged: () => void = () => undefined;
  start(onChanged: () => void): void {
    this.onChanged = onChanged;
  }
  list(): readonly unknown[] | undefined {
    return this.objects;
  }
  close(): void {
    this.onChanged = (): void => undefined;
  }
  give(...objects: readonly unknown[]): void {
    this.objects = objects;
    this.onChanged();
  }
}

type Heard = {
  readonly sets: string[][];
  readonly problems: (string | undefined)[];
  last: readonly GuestAssignment[];
};

let directory = "";
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "twinrun-pairs-"));
  jest.useFakeTimers();
});
afterEach(() => {
  jest.useRealTimers();
  rmSync(directory, { recursive: true, force: true });
});

function open(): {
  watch: FakeWatch;
  heard: Heard;
  source: PairAssignmentSource;
  wishes: string[][];
} {
  const watch = new FakeWatch();
  const source = new PairAssignmentSource({
    watch,
    node: "node-a",
    runDirectory: directory,
    log: silentLog,
  });
  const heard: Heard = { sets: [], problems: [], last: [] };
  const wishes: string[][] = [];
  source.onWishes = (all): void => {
    wishes.push(all.map(({ guest, roles }) => `${guest} ${roles.term}`));
  };
  source.watch({
    onAssignments: (assignments) => {
      heard.sets.push(assignments.map(({ guest }) => guest));
      heard.last = assignments;
    },
    onProblem: (problem) => {
      heard.problems.push(problem);
    },
  });
  return { watch, heard, source, wishes };
}

function pair(name: string, spec: Readonly<Record<string, unknown>> = {}): object {
  // Another spec is another generation.
  const generation = Object.keys(spec).length * 100_000 + (Number(spec["port"] ?? 1) || 2);
  return {
    ...buildGuestPair({ guest: name, ...spec }),
    metadata: { name, namespace: "twinrun", generation },
  };
}

const mail = pair("mail", { port: 7_501 });

test("pairs of this node are assignments, those of others are not", () => {
  const { watch, heard, wishes } = open();
  watch.give(
    pair("web"),
    mail,
    pair("far", {
      port: 7_502,
      sides: [buildSide("node-b"), buildSide("node-c")],
      roles: { term: 1, primary: "node-b" },
    }),
  );
  expect(heard.sets).toEqual([["web", "mail"]]);
  expect(wishes).toEqual([["web 1", "mail 1"]]);
  watch.give(mail);
  expect(heard.sets.at(-1)).toEqual(["mail"]);
  expect(heard.problems).toEqual([]);
});

test("a pair that cannot be used is told of, keeps its last good version, and disturbs no other", () => {
  const { watch, heard } = open();
  watch.give(pair("web"), mail);
  watch.give(pair("web", { port: "x" }), pair("mail", { port: 7_509 }));
  expect(heard.last.map(({ guest, port }) => `${guest} ${port}`)).toEqual(["web 7500", "mail 7509"]);
  expect(heard.problems.at(-1)).toMatch(/twinrun\/web.*port.*last good version/s);
  watch.give(pair("web"), mail);
  expect(heard.problems.at(-1)).toBeUndefined();
});

test("once a record is known no first one is made here, though the spec is as it was", () => {
  const { watch, heard } = open();
  watch.give(pair("web"));
  expect(heard.last[0]?.firstPrimary).toBe("node-a");
  watch.give({ ...pair("web"), status: { sides: [buildReportedSide("node-a", buildReport())] } });
  expect(heard.last[0]?.firstPrimary).toBe("node-b");
});

test("of two pairs that want the same port the first one has it", () => {
  const { watch, heard } = open();
  watch.give(pair("web"), pair("shop"));
  expect(heard.sets.at(-1)).toEqual(["web"]);
  expect(heard.problems.at(-1)).toMatch(/twinrun\/shop has the port of twinrun\/web/);
});

test("an agent that starts while the API server is away uses what it knew last, after a while", () => {
  const first = open();
  first.watch.give(pair("web"));
  first.source.close();
  const { watch, heard } = open();
  expect(heard.sets).toEqual([]);
  jest.advanceTimersByTime(3_100);
  expect(heard.sets).toEqual([["web"]]);
  watch.give(pair("web"), mail);
  expect(heard.sets.at(-1)).toEqual(["web", "mail"]);
});

test("an agent that gets a list in time never uses what was gone meanwhile", () => {
  const first = open();
  first.watch.give(pair("web"));
  first.source.close();
  const { watch, heard } = open();
  watch.give(mail);
  jest.advanceTimersByTime(10_000);
  expect(heard.sets).toEqual([["mail"]]);
});

test("nothing is said before there was a list, when nothing is known", () => {
  const { watch, heard } = open();
  watch.onChanged();
  jest.advanceTimersByTime(10_000);
  expect(heard.sets).toEqual([]);
});
