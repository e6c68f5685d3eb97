/** Everything that a round of the soak can be about, by name, and how often each comes. */
import { present } from "../../src/lib/assert.ts";
import { type Random } from "../../src/lib/random.ts";
import { type Fault, type FaultName } from "./fault.ts";
import { failPointFaults } from "./fail-points.ts";
import { plainFaults } from "./faults.ts";
import { type FaultPair, heldPairs, type HeldPair, nameOfPair, survivedPairs } from "./pairs.ts";
import { restarts, type Restart } from "./restarts.ts";

export type Round =
  | { readonly tag: "single"; readonly name: FaultName; readonly fault: Fault }
  | { readonly tag: "pair"; readonly name: FaultName; readonly pair: FaultPair }
  | { readonly tag: "held"; readonly name: FaultName; readonly pair: HeldPair }
  | { readonly tag: "restart"; readonly name: FaultName; readonly restart: Restart };

type Entry = { readonly weight: number; readonly round: Round };

const single = ([name, fault]: readonly [string, Fault]): Entry => ({
  weight: fault.weight,
  round: { tag: "single", name, fault },
});
const plain = Object.entries(plainFaults).map(single);
const failPoints = Object.entries(failPointFaults).map(single);
const survived = survivedPairs.map((pair): Entry => ({
  weight: 1,
  round: { tag: "pair", name: nameOfPair(pair), pair },
}));
const held = heldPairs.map((pair): Entry => ({ weight: 1, round: { tag: "held", name: nameOfPair(pair), pair } }));
const ends = Object.entries(restarts).map(([name, restart]): Entry => ({
  weight: restart.weight,
  round: { tag: "restart", name, restart },
}));

const all = new Map([...plain, ...failPoints, ...survived, ...held, ...ends].map(({ round }) => [round.name, round]));

export const roundNames: readonly FaultName[] = [...all.keys()];
/** Deaths at a step of the protocol: many, and each of them alike. */
export const failPointNames: ReadonlySet<FaultName> = new Set(failPoints.map(({ round }) => round.name));

export function findRound(name: FaultName): Round {
  return present(all.get(name), `a fault named ${name}`);
}

/** Each of `entries` as often as it weighs, in an order of its own, before any comes again. */
export class Deck<T> {
  readonly #random: Random;
  readonly #all: readonly T[];
  #left: T[] = [];

  constructor(random: Random, entries: readonly (readonly [what: T, weight: number])[]) {
    this.#random = random;
    this.#all = entries.flatMap(([what, weight]) => Array.from({ length: weight }, () => what));
  }

  draw(): T {
    if (this.#left.length === 0) {
      this.#left = [...this.#all];
    }
    return present(this.#left.splice(this.#random.below(this.#left.length), 1)[0], "a card");
  }
}

const deckOf = (random: Random, entries: readonly Entry[]): Deck<Round> =>
  new Deck(
    random,
    entries.map(({ round, weight }) => [round, weight] as const),
  );

/** Every other round kills at a named step of the protocol; of the others every third is about two faults at once. */
export class RoundChoice {
  readonly #tables: Deck<Deck<Round>>;
  readonly #failPoints: Deck<Round>;
  readonly #chosen: Deck<Round> | undefined;
  #roundsCount = 0;

  /** `names`: only these, one as often as the other. */
  constructor(random: Random, names: readonly FaultName[] | undefined) {
    this.#chosen =
      names === undefined
        ? undefined
        : new Deck(
            random,
            names.map((name) => [findRound(name), 1] as const),
          );
    this.#failPoints = deckOf(random, failPoints);
    this.#tables = new Deck(random, [
      [deckOf(random, plain), 36],
      [deckOf(random, survived), 16],
      [deckOf(random, held), 6],
      [deckOf(random, ends), 3],
    ]);
  }

  draw(): Round {
    this.#roundsCount += 1;
    if (this.#chosen !== undefined) {
      return this.#chosen.draw();
    }
    return (this.#roundsCount % 2 === 0 ? this.#failPoints : this.#tables.draw()).draw();
  }
}

/** What may happen while the standby is being copied to. */
export const duringCopy: readonly Extract<Round, { readonly tag: "single" }>[] = plain.flatMap(({ round }) =>
  round.tag === "single" && round.fault.duringCopy ? [round] : [],
);
