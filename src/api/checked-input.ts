/**
 * Reads what people wrote (a file, flags) with a zod schema and says everything that is wrong with it at once.
 *
 * Contract: each problem is one line that names the field's path, what has to stand there, and what was found. The schema's
 * own `error` texts are completions of "must be ...", so the remedy stands beside the field it concerns.
 */
import { type z } from "zod";
import { Failure } from "../lib/failure.ts";

export type InputFailureDetail = {
  readonly code: "InputInvalid";
  /** What was read, such as a file's path. */
  readonly subject: string;
  readonly problems: readonly string[];
};
export class InputFailure extends Failure<InputFailureDetail> {}

export function parseInput<S extends z.ZodType>(schema: S, value: unknown, subject: string): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) {
    return result.data;
  }
  const problems = result.error.issues.flatMap((issue) => parseIssue(issue, value));
  const lines = problems.map((problem) => `\n  ${problem}`).join("");
  throw new InputFailure(
    { code: "InputInvalid", subject, problems },
    `${subject} has ${problems.length === 1 ? "a mistake; correct it" : `${problems.length} mistakes; correct them`}:${lines}`,
  );
}

function parseIssue(issue: z.core.$ZodIssue, root: unknown): string[] {
  const path = writePath(issue.path);
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => `${writePath([...issue.path, key])}: no such field; remove it or correct its name`);
  }
  if (issue.code === "custom") {
    return [`${path}: ${issue.message}`];
  }
  return [`${path}: must be ${issue.message}, found ${writeFound(readAt(root, issue.path))}`];
}

function writePath(path: readonly PropertyKey[]): string {
  const written = path.map((part) => (typeof part === "number" ? `[${part}]` : `.${String(part)}`)).join("");
  return written === "" ? "(whole file)" : written.replace(/^\./, "");
}

function readAt(root: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (value, part) => (typeof value === "object" && value !== null ? Reflect.get(value, part) : undefined),
    root,
  );
}

const FOUND_LENGTH_MAX = 60;

function writeFound(value: unknown): string {
  if (value === undefined) {
    return "nothing";
  }
  const text = JSON.stringify(value);
  return text.length > FOUND_LENGTH_MAX ? `${text.slice(0, FOUND_LENGTH_MAX)}...` : text;
}
