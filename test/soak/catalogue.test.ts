/** What a soak is made of: every kind comes, in the order that the seed says. */
import { describe, expect, test } from "@jest/globals";
import { Random } from "../../src/lib/random.ts";
import { Deck, findRound, roundNames, RoundChoice } from "./catalogue.ts";

const drawMany = (seed: number, count: number): string[] => {
  const choice = new RoundChoice(new Random(seed), undefined);
  return Array.from({ length: count }, () => choice.draw().name);
};

describe("rounds", () => {
  test("have names of their own", () => {
    expect(new Set(roundNames).size).toBe(roundNames.length);
    expect(roundNames.map((name) => findRound(name).name)).toEqual(roundNames);
  });

  test("are the same for the same seed", () => {
    expect(drawMany(7, 200)).toEqual(drawMany(7, 200));
    expect(drawMany(7, 200)).not.toEqual(drawMany(8, 200));
  });

  test("all come in a soak of a thousand faults, and in many short ones", () => {
    expect(new Set(drawMany(1, 700))).toEqual(new Set(roundNames));
    const short = Array.from({ length: 400 }, (_, seed) => drawMany(seed, 15));
    expect(new Set(short.flat())).toEqual(new Set(roundNames));
  });

  test("are only the chosen ones when some are chosen", () => {
    const choice = new RoundChoice(new Random(1), ["powerOffBoth", "stopQuorum+cutBothLinks"]);
    const drawn = Array.from({ length: 6 }, () => choice.draw().name);
    expect(new Set(drawn)).toEqual(new Set(["powerOffBoth", "stopQuorum+cutBothLinks"]));
  });
});

test("a deck gives every card before any comes again, as often as it weighs", () => {
  const deck = new Deck(new Random(3), [
    ["often", 3],
    ["once", 1],
  ]);
  for (let round = 0; round < 5; round += 1) {
    expect([deck.draw(), deck.draw(), deck.draw(), deck.draw()].sort()).toEqual(["often", "often", "often", "once"]);
  }
});
