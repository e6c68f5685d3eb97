/** Questions before what cannot be taken back. */
import { CliFailure } from "./cli-failure.ts";
import { type Session } from "./session.ts";

export type Question = {
  /** What will happen, said before the question and without it. */
  readonly explains: readonly string[];
  readonly asks: string;
  /** The word to be typed; for less it is yes or no. */
  readonly word?: string;
};

/** Comes back when it is confirmed; throws Refused otherwise. */
export async function confirm({ invocation, terminal, signal }: Session, question: Question): Promise<void> {
  const { explains, asks, word } = question;
  for (const line of explains) {
    terminal.say(line);
  }
  if (invocation.switches.has("yes")) {
    return;
  }
  if (!terminal.canAsk) {
    throw new CliFailure(
      "Refused",
      "nothing was done: this has to be confirmed, and standard input is no terminal; give --yes",
    );
  }
  const answer = await terminal.ask(word === undefined ? `${asks} [y/N]` : `${asks} Type ${word} to go on:`, signal);
  const isYes = word === undefined ? /^y(es)?$/i.test(answer ?? "") : answer === word;
  if (!isYes) {
    throw new CliFailure("Refused", "nothing was done");
  }
}
