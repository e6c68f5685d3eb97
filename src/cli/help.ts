/** Help texts, made of the table of commands. */
import { EXIT_STATUSES } from "./cli-failure.ts";
import {
  COMMAND_NAMES,
  COMMANDS,
  COMMON_FLAGS,
  type CommandName,
  type Flag,
  type FlagName,
  FLAGS,
} from "./command-table.ts";

const WIDTH = 100;

/** What `kubectl twinrun` without a command says. */
export function writeHelp(): readonly string[] {
  const examples = (["status", "doctor", "protect", "switchover", "logs"] as const).flatMap((name) => {
    const [example] = COMMANDS[name].examples;
    return example === undefined ? [] : [example];
  });
  return [
    "Keeps virtual machines of KubeVirt running when the server under them dies.",
    "",
    "usage: kubectl twinrun COMMAND [ARGUMENT...] [FLAG...]",
    "",
    "commands:",
    ...writePairs(COMMAND_NAMES.map((name) => [name, COMMANDS[name].says])),
    "",
    "flags of every command:",
    ...writePairs(COMMON_FLAGS.map((name) => [writeFlag(name, FLAGS[name]), FLAGS[name].says])),
    "",
    "examples:",
    ...writeExamples(examples),
    "",
    "exit status:",
    ...writePairs([
      ["0", "all is well"],
      ...Object.values(EXIT_STATUSES).map(({ status, means }) => [`${status}`, means] as const),
    ]),
    "",
    "`kubectl twinrun COMMAND --help` says more.",
  ];
}

/** What a command does, takes and is used for. */
export function writeCommandHelp(name: CommandName): readonly string[] {
  const { says, takes, details, flags, outputs, examples } = COMMANDS[name];
  const saysOf = (flag: FlagName): string =>
    flag === "output" && outputs !== undefined ? `in which form: ${outputs.join(", ")}` : FLAGS[flag].says;
  const section = (title: string, lines: readonly string[]): readonly string[] =>
    lines.length === 0 ? [] : ["", title, ...lines];
  return [
    ...wrap(`${says.charAt(0).toUpperCase()}${says.slice(1)}.`, WIDTH),
    ...details.flatMap((paragraph) => ["", ...wrap(paragraph, WIDTH)]),
    "",
    `usage: kubectl twinrun ${[name, takes, "[FLAG...]"].filter((part) => part !== "").join(" ")}`,
    ...section("flags:", writePairs(flags.map((flag) => [writeFlag(flag, FLAGS[flag]), saysOf(flag)]))),
    ...section(
      "flags of every command:",
      writePairs(COMMON_FLAGS.map((flag) => [writeFlag(flag, FLAGS[flag]), saysOf(flag)])),
    ),
    ...section("examples:", writeExamples(examples)),
  ];
}

function writeFlag(name: FlagName, { kind, short }: Flag): string {
  const value = {
    switch: "",
    text: ` ${kind.tag === "text" ? kind.what : ""}`,
    duration: " DURATION",
    count: " NUMBER",
  };
  return `${short === undefined ? "    " : `-${short}, `}--${name}${value[kind.tag]}`;
}

function writeExamples(examples: readonly { readonly line: string; readonly says: string }[]): readonly string[] {
  return examples.flatMap(({ line, says }) => [`  # ${says}`, `  kubectl twinrun ${line}`]);
}

function writePairs(pairs: readonly (readonly [string, string])[]): readonly string[] {
  const width = Math.max(0, ...pairs.map(([left]) => left.length));
  return pairs.flatMap(([left, right]) =>
    wrap(right, WIDTH - width - 5).map((line, index) => `  ${(index === 0 ? left : "").padEnd(width)}   ${line}`),
  );
}

/** Lines of at most `width` characters, broken at blanks; a longer word has a line of its own. */
export function wrap(text: string, width: number): readonly string[] {
  return text.split(" ").reduce<string[]>((lines, word) => {
    const last = lines.at(-1);
    if (last === undefined || last.length + 1 + word.length > width) {
      return [...lines, word];
    }
    return [...lines.slice(0, -1), `${last} ${word}`];
  }, []);
}
