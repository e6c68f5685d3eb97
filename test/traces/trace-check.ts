/** All traces of some runs: each replayed, those of one guest in one directory, and so of one run, held against one another. */
import { type Side } from "../../src/protocol/side-state.ts";
import { CrossCheck } from "./cross-check.ts";
import { FileReplay, type StepFunction, type TraceStep } from "./replay.ts";

const PROBLEMS_SHOWN = 20;

export type TraceReport = { readonly isGood: boolean; readonly lines: readonly string[] };

export class TraceCheck {
  readonly #stepWith: StepFunction | undefined;
  readonly #guests = new Map<string, CrossCheck>();
  readonly #problems: string[] = [];
  #files = 0;
  #events = 0;

  constructor(stepWith?: StepFunction) {
    this.#stepWith = stepWith;
  }

  /** One file, in pieces of any size. */
  takeFile(name: string, pieces: Iterable<string>): void {
    this.#files += 1;
    let guest: CrossCheck | undefined;
    const watcher = {
      begin: (first: Side, where: string): void => {
        const key = `${name.slice(0, name.lastIndexOf("/") + 1)}${first.guest}`;
        guest = this.#guests.get(key) ?? new CrossCheck();
        this.#guests.set(key, guest);
        guest.begin(where);
      },
      take: (step: TraceStep): void => {
        this.#events += 1;
        guest?.take(step);
      },
      end: (last: Side): void => {
        guest?.end(last);
      },
      report: (problem: string): void => {
        this.#problems.push(problem);
      },
    };
    const replay = new FileReplay(name, watcher, this.#stepWith);
    let rest = "";
    for (const piece of pieces) {
      const rows = `${rest}${piece}`.split("\n");
      rest = rows.pop() ?? "";
      rows.forEach((row) => {
        replay.takeLine(row);
      });
    }
    replay.finish(rest);
  }

  report(): TraceReport {
    const lines: string[] = [];
    for (const [guest, check] of this.#guests) {
      check.finish();
      this.#problems.push(...check.problems.map((problem) => `${guest}: ${problem}`));
      const { processes, terms, takeovers, acks, releases, leases } = check;
      const counts = `${takeovers} takeovers, ${acks} acknowledgements, ${releases} releases`;
      const leased = leases === 0 ? "" : `, ${leases} times by a lease`;
      lines.push(`${guest}: ${processes} engine processes, ${terms} terms, ${counts}${leased}`);
    }
    if (this.#events === 0) {
      this.#problems.push("there is no trace to check: run the engines with a trace directory");
    }
    lines.push(...this.#problems.slice(0, PROBLEMS_SHOWN).map((problem) => `VIOLATION ${problem}`));
    const isGood = this.#problems.length === 0;
    const verdict = isGood ? "all accepted" : `${this.#problems.length} violations`;
    lines.push(`${this.#files} traces, ${this.#events} events replayed: ${verdict}`);
    return { isGood, lines };
  }
}
