/** The command line, turned into what it means or into a sentence that says which part of it is wrong and what would be right. */
import { parseArgs } from "node:util";
import { usageWrong } from "./cli-failure.ts";
import {
  COMMAND_NAMES,
  COMMANDS,
  type CommandName,
  FLAG_NAMES,
  type FlagName,
  FLAGS,
  listFlags,
} from "./command-table.ts";
import { parseDuration } from "./duration.ts";

/** What was given. Lists are split, durations in milliseconds; what was not given is absent. */
export type Invocation = {
  readonly command: CommandName;
  readonly names: readonly string[];
  readonly switches: ReadonlySet<FlagName>;
  /** A switch that was given as --no-NAME. */
  readonly refused: ReadonlySet<FlagName>;
  readonly texts: ReadonlyMap<FlagName, string>;
  /** Durations in milliseconds, and counts. */
  readonly numbers: ReadonlyMap<FlagName, number>;
};

type Values = Readonly<Record<string, string | boolean | undefined>>;

const isFlagName = (name: string): name is FlagName => (FLAG_NAMES as readonly string[]).includes(name);
const isCommandName = (name: string): name is CommandName => (COMMAND_NAMES as readonly string[]).includes(name);

/** Throws a CliFailure UsageWrong. Flags may stand before the command, as kubectl lets them. */
export function parseCommandLine(args: readonly string[]): Invocation {
  const { values, positionals } = parseValues(args);
  const [word, ...rest] = positionals;
  const wantsHelp = values["help"] === true;
  const command = parseCommand(word ?? "help");
  if (wantsHelp || command === "help") {
    return build("help", wantsHelp && word !== undefined ? [command] : rest, {});
  }
  assertFlagsFit(command, values);
  assertCount(command, rest);
  return build(command, rest, values);
}

function parseValues(args: readonly string[]): { readonly values: Values; readonly positionals: readonly string[] } {
  const options = Object.fromEntries(
    FLAG_NAMES.map((name) => {
      const { kind, short } = FLAGS[name];
      const type = kind.tag === "switch" ? ("boolean" as const) : ("string" as const);
      return [name, short === undefined ? { type } : { type, short }];
    }),
  );
  try {
    return parseArgs({
      ...{ args: args.flatMap(splitShort), options },
      ...{ strict: true, allowPositionals: true, allowNegative: true },
    });
  } catch (error) {
    throw usageWrong(explainRefusal(error));
  }
}

/** kubectl takes `-o=json` as well as `-o json`. */
function splitShort(word: string): readonly string[] {
  const [, flag, value] = /^(-[a-zA-Z])=(.*)$/.exec(word) ?? [];
  return flag === undefined || value === undefined ? [word] : [flag, value];
}

/** Node's own words end in advice about positional arguments that nobody needs. */
function explainRefusal(error: unknown): string {
  // Not `instanceof`: under a test runner Node's own errors are of another realm.
  const said = (error as { readonly message?: string }).message ?? String(error);
  const [, unknown] = /^Unknown option '(-[^']*)'/.exec(said) ?? [];
  if (unknown === undefined) {
    return said.split("\n").join(" ");
  }
  const near = findNearest(unknown.replace(/^-+/, ""), FLAG_NAMES);
  return `there is no flag ${unknown}${near === undefined ? "" : `; did you mean --${near}?`}`;
}

function parseCommand(word: string): CommandName {
  if (isCommandName(word)) {
    return word;
  }
  const near = findNearest(word, COMMAND_NAMES);
  const advice = near === undefined ? `commands are ${COMMAND_NAMES.join(", ")}` : `did you mean ${near}?`;
  throw usageWrong(`there is no command ${word}; ${advice}`);
}

function assertFlagsFit(command: CommandName, values: Values): void {
  const fitting = listFlags(command) as readonly string[];
  const wrong = Object.keys(values).find((name) => !fitting.includes(name));
  if (wrong !== undefined) {
    const takers = COMMAND_NAMES.filter((name) => (COMMANDS[name].flags as readonly string[]).includes(wrong));
    throw usageWrong(`${command} takes no --${wrong}; it belongs to ${takers.join(", ")}`);
  }
}

function assertCount(command: CommandName, names: readonly string[]): void {
  const { takes, arguments: wanted } = COMMANDS[command];
  if (names.length < wanted.min) {
    throw usageWrong(
      `${command} needs ${takes}, as in: kubectl twinrun ${COMMANDS[command].examples[0]?.line ?? command}`,
    );
  }
  if (names.length > wanted.max) {
    const surplus = names.slice(wanted.max).join(" ");
    throw usageWrong(`${command} takes ${wanted.max === 0 ? "no argument" : takes}, and not also: ${surplus}`);
  }
}

function build(command: CommandName, names: readonly string[], values: Values): Invocation {
  const given = Object.entries(values).flatMap(([name, value]) => (isFlagName(name) ? [{ name, value }] : []));
  const texts = given.flatMap(({ name, value }) =>
    typeof value === "string" ? [{ name, value, kind: FLAGS[name].kind }] : [],
  );
  const output = texts.find(({ name }) => name === "output")?.value;
  assertOutput(command, output);
  return {
    command,
    names,
    switches: new Set(given.filter(({ value }) => value === true).map(({ name }) => name)),
    refused: new Set(given.filter(({ value }) => value === false).map(({ name }) => name)),
    texts: new Map(
      texts.filter(({ kind }) => kind.tag === "text").map(({ name, value }) => [name, notEmpty(name, value)]),
    ),
    numbers: new Map(
      texts.flatMap(({ name, value, kind }) => {
        if (kind.tag === "duration") {
          return [[name, requireDuration(name, value)] as const];
        }
        return kind.tag === "count" ? [[name, requireCount(name, value)] as const] : [];
      }),
    ),
  };
}

function assertOutput(command: CommandName, output: string | undefined): void {
  const { outputs } = COMMANDS[command];
  if (output !== undefined && outputs !== undefined && !outputs.includes(output)) {
    throw usageWrong(`--output of ${command} must be ${outputs.join(" or ")}, not ${output}`);
  }
}

function notEmpty(name: FlagName, value: string): string {
  if (value === "") {
    throw usageWrong(`--${name} must not be empty`);
  }
  return value;
}

function requireDuration(name: FlagName, value: string): number {
  const durationMs = parseDuration(value);
  if (durationMs === undefined) {
    throw usageWrong(`--${name} must be a duration such as 500ms, 30s or 5m, not ${value}`);
  }
  return durationMs;
}

function requireCount(name: FlagName, value: string): number {
  if (!/^[0-9]{1,9}$/.test(value)) {
    throw usageWrong(`--${name} must be a whole number, not ${value}`);
  }
  return Number(value);
}

/** The name that differs by at most two letters in five. */
function findNearest<Name extends string>(word: string, names: readonly Name[]): Name | undefined {
  const ranked = names.map((name) => ({ name, distance: measureDistance(word, name) }));
  const [best] = ranked.toSorted((one, other) => one.distance - other.distance);
  return best !== undefined && best.distance * 5 <= best.name.length * 2 ? best.name : undefined;
}

/** Letters to change, add or take away (Levenshtein). */
function measureDistance(one: string, other: string): number {
  const first = Array.from({ length: other.length + 1 }, (_, index) => index);
  const last = Array.from(one).reduce((before, letter, row) => {
    const line = [row + 1];
    for (const [column, otherLetter] of Array.from(other).entries()) {
      const changed = (before[column] ?? 0) + (letter === otherLetter ? 0 : 1);
      line.push(Math.min(changed, (before[column + 1] ?? 0) + 1, (line[column] ?? 0) + 1));
    }
    return line;
  }, first);
  return last.at(-1) ?? 0;
}
