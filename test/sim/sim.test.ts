/** The simulator itself: that the protocol holds for a few seeds (main.ts runs thousands) and that broken rules do not. */
import { describe, expect, test } from "@jest/globals";
import { highAvailabilityMutants, mutants, plans } from "./mutants.ts";
import { type Outcome, PRODUCTION, World, type WorldOptions } from "./world.ts";

const SMOKE_SEEDS = 100;
const MUTANT_SEEDS_MAX = 300;
const TIMEOUT_MS = 300_000;

function findViolation(options: WorldOptions, seeds: number): Outcome | undefined {
  for (let seed = 1; seed <= seeds; seed += 1) {
    const outcome = new World(seed, options).run();
    if (outcome.violation !== undefined) {
      return outcome;
    }
  }
  return undefined;
}

describe("the simulated pair", () => {
  test(
    `everything holds for ${SMOKE_SEEDS} seeds`,
    () => {
      expect(findViolation({}, SMOKE_SEEDS)).toBeUndefined();
    },
    TIMEOUT_MS,
  );

  test("the runs are worth something: takeovers, switchovers, both kinds of copy, replies", () => {
    const outcomes = Array.from({ length: SMOKE_SEEDS }, (_, index) => new World(index + 1).run());
    const sum = (key: "takeovers" | "switchovers" | "deltas" | "fullCopies" | "replies" | "faults"): number =>
      outcomes.reduce((total, outcome) => total + outcome[key], 0);
    expect(sum("takeovers")).toBeGreaterThan(10);
    expect(sum("switchovers")).toBeGreaterThan(2);
    expect(sum("deltas")).toBeGreaterThan(5);
    expect(sum("fullCopies")).toBeGreaterThan(SMOKE_SEEDS);
    expect(sum("faults")).toBeGreaterThan(2 * SMOKE_SEEDS);
    expect(sum("replies")).toBeGreaterThan(10 * SMOKE_SEEDS);
  });

  test("a seed gives the same run every time", () => {
    const run = (): readonly string[] => {
      const lines: string[] = [];
      const outcome = new World(7, { log: (line) => lines.push(line), keepsTraces: true }).run();
      return [...lines, JSON.stringify(outcome)];
    };
    expect(run()).toEqual(run());
  });
});

describe("a pair of HighAvailability", () => {
  const mode = "HighAvailability";

  test.each([{ changesMode: false }, { changesMode: true }])(
    "everything holds, the mode being changed: $changesMode",
    ({ changesMode }) => {
      expect(findViolation({ mode, changesMode }, SMOKE_SEEDS)).toBeUndefined();
    },
    TIMEOUT_MS,
  );

  test.each(Object.entries(highAvailabilityMutants))(
    "a broken rule is found: %s",
    (_, rules) => {
      expect(findViolation({ mode, rules }, MUTANT_SEEDS_MAX)?.violation).toMatch(/SimViolation/);
    },
    TIMEOUT_MS,
  );
});

describe("a broken rule is found", () => {
  test.each(Object.entries(mutants))(
    "%s",
    (name, rules) => {
      const plan = plans[name];
      const options = plan === undefined ? { rules } : { rules, plan };
      expect(findViolation(options, MUTANT_SEEDS_MAX)?.violation).toMatch(/SimViolation/);
    },
    TIMEOUT_MS,
  );

  test.each(Object.entries(plans))(
    "and the production rules stand the same: %s",
    (_, plan) => {
      expect(findViolation({ plan }, SMOKE_SEEDS)).toBeUndefined();
    },
    TIMEOUT_MS,
  );

  test("and the production rules are what was not broken", () => {
    expect(new World(1, { rules: PRODUCTION }).run().violation).toBeUndefined();
  });
});
