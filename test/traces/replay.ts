/**
 * Replays traces of engines (protocol/trace.ts) through the production step function.
 *
 * A file holds the processes of one engine after one another. A process that was killed ends anywhere, at worst in the middle
 * of a line; nothing else may be wrong with a file.
 */
import { step } from "../../src/protocol/side.ts";
import { type Side, type SideEvent, type Step } from "../../src/protocol/side-state.ts";
import { parseTraceLine, type TraceEvent, type TraceHead } from "../../src/protocol/trace.ts";

export type TraceStep = { readonly event: SideEvent; readonly before: Side } & Step;

/** The life of one engine process. */
export type EngineLife = {
  /** File and line of its head. */
  readonly where: string;
  readonly first: Side;
  readonly steps: readonly TraceStep[];
  /** It left in good order, so nothing is missing at its end. */
  readonly isWhole: boolean;
};

export type StepFunction = (side: Side, event: SideEvent) => Step;
export type Replay = { readonly lives: readonly EngineLife[]; readonly problems: readonly string[] };

type RawLife = { readonly where: string; readonly head: TraceHead; readonly events: TraceEvent[] };

const HEAD_START = '{"trace":';

export function replayFile(name: string, text: string, stepWith: StepFunction = step): Replay {
  const problems: string[] = [];
  const lives = parseLives(name, text, problems).map((raw) => replayLife(raw, stepWith, problems));
  return { lives, problems };
}

function parseLives(name: string, text: string, problems: string[]): readonly RawLife[] {
  const lives: RawLife[] = [];
  const lines = splitLines(text);
  for (const { number, line, mayBeCut } of lines) {
    const where = `${name}:${number}`;
    try {
      const parsed = parseTraceLine(line);
      if (parsed.tag === "head") {
        lives.push({ where, head: parsed, events: [] });
      } else if (lives.length === 0) {
        problems.push(`${where}: an event before the head of its process`);
      } else {
        lives.at(-1)?.events.push(parsed);
      }
    } catch (error) {
      if (!mayBeCut || !isStartOfLine(line)) {
        problems.push(`${where}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
  }
  return lives;
}

type Line = { readonly number: number; readonly line: string; readonly mayBeCut: boolean };

/** A process that was killed leaves no line feed behind: the next one's head follows on the same line. */
function splitLines(text: string): readonly Line[] {
  const rows = text.split("\n");
  const last = rows.length - 1;
  return rows.flatMap((row, index): readonly Line[] => {
    const number = index + 1;
    if (index === last) {
      return row === "" ? [] : [{ number, line: row, mayBeCut: true }];
    }
    const headAt = row.indexOf(HEAD_START, 1);
    if (headAt > 0 && !isWholeJson(row)) {
      return [
        { number, line: row.slice(0, headAt), mayBeCut: true },
        { number, line: row.slice(headAt), mayBeCut: false },
      ];
    }
    return [{ number, line: row, mayBeCut: false }];
  });
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
  const starts = ['{"trace":', '{"atMs":'];
  return !isWholeJson(line) && starts.some((start) => line.startsWith(start) || start.startsWith(line));
}

function replayLife({ where, head, events }: RawLife, stepWith: StepFunction, problems: string[]): EngineLife {
  let { side } = head;
  const steps: TraceStep[] = [];
  for (const [index, recorded] of events.entries()) {
    const { event } = recorded;
    const before = side;
    const stepped = stepWith(before, event);
    side = stepped.side;
    steps.push({ event, before, ...stepped });
    const difference = compareStep(recorded, stepped);
    if (difference !== undefined) {
      problems.push(`${where}, event ${index + 1} (${event.tag} in ${before.state.tag}): ${difference}`);
      break; // What follows would differ as well.
    }
  }
  return { where, first: head.side, steps, isWhole: side.state.tag === "ended" };
}

function compareStep(recorded: TraceEvent, { side, effects }: Step): string | undefined {
  const replayed = { state: side.state.tag, epoch: side.epoch, effects: effects.map(({ tag }) => tag).join(" ") };
  const wrote = { state: recorded.state, epoch: recorded.epoch, effects: recorded.effects.join(" ") };
  const key = (["state", "epoch", "effects"] as const).find((name) => replayed[name] !== wrote[name]);
  return key === undefined ? undefined : `the engine wrote ${key} "${wrote[key]}", replayed it is "${replayed[key]}"`;
}
