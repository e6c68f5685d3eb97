/**
 * Replays traces of engines (protocol/trace.ts) through the production step function, line by line: traces of a long run do not
 * fit into memory.
 *
 * A file holds the processes of one engine after one another. A process that was killed ends anywhere, at worst in the middle
 * of a line; nothing else may be wrong with a file.
 */
import { step } from "../../src/protocol/side.ts";
import { type Side, type SideEvent, type Step } from "../../src/protocol/side-state.ts";
import { parseTraceLine, type TraceEvent } from "../../src/protocol/trace.ts";

export type TraceStep = { readonly event: SideEvent; readonly before: Side } & Step;
export type StepFunction = (side: Side, event: SideEvent) => Step;

/** Told what the lives of engine processes were; `where` is file and line of the head. */
export type LifeWatcher = {
  readonly begin: (first: Side, where: string) => void;
  readonly take: (step: TraceStep, where: string) => void;
  readonly end: (last: Side, where: string) => void;
  readonly report: (problem: string) => void;
};

type Life = { readonly where: string; side: Side; events: number; differs: boolean };

const HEAD_START = '{"trace":';
const LINE_STARTS = [HEAD_START, '{"atMs":'];

export class FileReplay {
  readonly #name: string;
  readonly #watcher: LifeWatcher;
  readonly #step: StepFunction;
  #life: Life | undefined;
  #line = 0;

  constructor(name: string, watcher: LifeWatcher, stepWith: StepFunction = step) {
    this.#name = name;
    this.#watcher = watcher;
    this.#step = stepWith;
  }

  /** A line that had its line feed. A killed process leaves none behind: then the next one's head is on the same line. */
  takeLine(row: string): void {
    this.#line += 1;
    const headAt = row.indexOf(HEAD_START, 1);
    if (headAt > 0 && !isWholeJson(row)) {
      this.#take(row.slice(0, headAt), true);
      this.#take(row.slice(headAt), false);
    } else {
      this.#take(row, false);
    }
  }

  /** What follows the last line feed. */
  finish(rest: string): void {
    this.#line += 1;
    if (rest !== "") {
      this.#take(rest, true);
    }
    this.#endLife();
  }

  #take(line: string, mayBeCut: boolean): void {
    try {
      const parsed = parseTraceLine(line);
      if (parsed.tag === "head") {
        this.#endLife();
        this.#life = { where: `${this.#name}:${this.#line}`, side: parsed.side, events: 0, differs: false };
        this.#watcher.begin(parsed.side, this.#life.where);
      } else {
        this.#replay(parsed);
      }
    } catch (error) {
      if (!mayBeCut || !isStartOfLine(line)) {
        this.#report(error instanceof Error ? error.message : String(error));
      }
    }
  }

  #replay(recorded: TraceEvent): void {
    const life = this.#life;
    if (life === undefined) {
      this.#report("an event before the head of its process");
      return;
    }
    if (life.differs) {
      return; // What follows the first difference differs as well.
    }
    const before = life.side;
    const { event } = recorded;
    const stepped = this.#step(before, event);
    life.side = stepped.side;
    life.events += 1;
    const difference = compareStep(recorded, stepped);
    if (difference !== undefined) {
      life.differs = true;
      this.#report(`${event.tag} in ${before.state.tag}: ${difference}`);
    }
    this.#watcher.take({ event, before, ...stepped }, life.where);
  }

  #endLife(): void {
    if (this.#life !== undefined) {
      this.#watcher.end(this.#life.side, this.#life.where);
      this.#life = undefined;
    }
  }

  #report(problem: string): void {
    this.#watcher.report(`${this.#name}:${this.#line}: ${problem}`);
  }
}

function isWholeJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** Whether a line that does not parse may be the beginning of one: then it is no JSON, but starts as every line does. */
function isStartOfLine(line: string): boolean {
  return !isWholeJson(line) && LINE_STARTS.some((start) => line.startsWith(start) || start.startsWith(line));
}

function compareStep(recorded: TraceEvent, { side, effects }: Step): string | undefined {
  const replayed = { state: side.state.tag, epoch: side.epoch, effects: effects.map(({ tag }) => tag).join(" ") };
  const wrote = { state: recorded.state, epoch: recorded.epoch, effects: recorded.effects.join(" ") };
  const key = (["state", "epoch", "effects"] as const).find((name) => replayed[name] !== wrote[name]);
  return key === undefined ? undefined : `the engine wrote ${key} "${wrote[key]}", replayed it is "${replayed[key]}"`;
}
