/** Colours, by what they mean. Plain where nobody looks at a terminal. */

export type Paint = {
  readonly good: (text: string) => string;
  readonly bad: (text: string) => string;
  readonly doubtful: (text: string) => string;
  readonly faint: (text: string) => string;
  readonly strong: (text: string) => string;
};

const same = (text: string): string => text;
export const plainPaint: Paint = { good: same, bad: same, doubtful: same, faint: same, strong: same };

const between =
  (code: number): ((text: string) => string) =>
  (text) =>
    `\u001b[${code}m${text}\u001b[0m`;
export const colourPaint: Paint = {
  ...{ good: between(32), bad: between(31), doubtful: between(33), faint: between(2), strong: between(1) },
};

/** Colours only for a terminal that has them, and not where NO_COLOR (no-color.org) is set. */
export function decidePaint(isTerminal: boolean, environment: Readonly<Record<string, string | undefined>>): Paint {
  const refused = (environment["NO_COLOR"] ?? "") !== "" || environment["TERM"] === "dumb";
  return isTerminal && !refused ? colourPaint : plainPaint;
}
