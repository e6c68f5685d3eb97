/**
 * Where a command speaks: results on standard output, all else (questions, progress, warnings) on standard error, so that a pipe
 * gets only results.
 *
 * On a terminal progress is one line that is overwritten; elsewhere each change is a line of its own.
 */
import { createInterface } from "node:readline/promises";
import { type Paint } from "./paint.ts";
import { oneLine } from "./table.ts";

export type Terminal = {
  readonly paint: Paint;
  /** Of what is said on standard error. */
  readonly saysPaint: Paint;
  readonly canAsk: boolean;
  print(lines: readonly string[]): void;
  /** As it is, for a file that is piped on. */
  write(content: string | Buffer): Promise<void>;
  say(line: string): void;
  /** What goes on now; the same again changes nothing. */
  showProgress(line: string): void;
  /** The answer without blanks around it; undefined when input has ended. */
  ask(question: string, signal: AbortSignal): Promise<string | undefined>;
};

export type Streams = {
  readonly input: NodeJS.ReadStream;
  readonly output: NodeJS.WriteStream;
  readonly errors: NodeJS.WriteStream;
};

export function openTerminal({ input, output, errors }: Streams, paints: readonly [Paint, Paint]): Terminal {
  const overwrites = errors.isTTY;
  let progress = "";
  const clearProgress = (): void => {
    if (progress !== "" && overwrites) {
      errors.write("\r\u001b[K");
    }
    progress = "";
  };
  return {
    paint: paints[0],
    saysPaint: paints[1],
    canAsk: input.isTTY,
    print: (lines) => {
      clearProgress();
      output.write(lines.map((line) => `${line}\n`).join(""));
    },
    write: (content) =>
      new Promise((resolve, reject) => {
        output.write(content, (error) => {
          if (error === undefined || error === null) {
            resolve();
          } else {
            reject(error);
          }
        });
      }),
    say: (line) => {
      clearProgress();
      errors.write(`${line}\n`);
    },
    showProgress: (line) => {
      const shown = overwrites ? oneLine(line).slice(0, Math.max(20, errors.columns - 1)) : oneLine(line);
      if (shown !== progress) {
        errors.write(overwrites ? `\r\u001b[K${shown}` : `${shown}\n`);
        progress = shown;
      }
    },
    ask: async (question, signal) => {
      clearProgress();
      const lines = createInterface({ input, output: errors, terminal: false });
      try {
        errors.write(`${question} `);
        const answer = await Promise.race([
          lines.question("", { signal }),
          new Promise<undefined>((resolve) => {
            lines.once("close", () => {
              resolve(undefined);
            });
          }),
        ]);
        return answer?.trim();
      } finally {
        lines.close();
      }
    },
  };
}
