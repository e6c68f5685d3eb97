/** How a command can end, and the exit status that says so to scripts. */
import { Failure } from "../lib/failure.ts";

/** `means` stands in the help text. */
export const EXIT_STATUSES = {
  Failed: { status: 1, means: "something failed, or doctor found something that must be mended" },
  UsageWrong: { status: 2, means: "the command line is wrong" },
  Refused: { status: 3, means: "refused: by a check, by the operator, or because it was not confirmed" },
  TimedOut: { status: 4, means: "what was waited for did not happen in time; it may still happen" },
  Unreachable: { status: 5, means: "the cluster cannot be reached or does not let you in" },
} as const;
export type CliFailureCode = keyof typeof EXIT_STATUSES;

/** The message is all that is shown of it, so it names the field or flag and the remedy. */
export class CliFailure extends Failure<{ readonly code: CliFailureCode }> {
  constructor(code: CliFailureCode, message: string, options?: { readonly cause?: unknown }) {
    super({ code }, message, options);
  }
}

export const usageWrong = (message: string): CliFailure => new CliFailure("UsageWrong", message);
