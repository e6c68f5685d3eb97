/**
 * What could come next on a command line, for shells.
 *
 * The protocol is Cobra's, which kubectl speaks with its plugins (it starts kubectl_complete-twinrun with the words after
 * `kubectl twinrun`): one candidate a line, a tab and a description after it, and a last line `:N` that says what the shell should
 * do besides.
 */
import {
  COMMAND_NAMES,
  COMMANDS,
  type CommandName,
  type Completes,
  FLAG_NAMES,
  type FlagName,
  FLAGS,
  listFlags,
  type Shell,
  SHELLS,
} from "./command-table.ts";

export type Candidate = { readonly word: string; readonly says?: string };

/** Candidates that are known, or what has to be asked for them. */
export type CompletionPlan =
  | { readonly tag: "words"; readonly candidates: readonly Candidate[] }
  | {
      readonly tag: "ask";
      readonly what: Exclude<Completes, "file">;
      readonly prefix: string;
      readonly flags: GivenFlags;
      /** The arguments before the one that is typed, where its meaning hangs on them. */
      readonly given?: readonly string[];
    }
  | { readonly tag: "files" };

/** Where to ask, as far as the command line says. */
export type GivenFlags = Readonly<Partial<Record<"namespace" | "context" | "kubeconfig", string>>>;

/** The last word is the one that is being typed; it may be empty. */
export function planCompletion(words: readonly string[]): CompletionPlan {
  // Bash takes `--flag=value` apart at the sign.
  const typed = words.filter((word) => word !== "=");
  const current = typed.at(-1) ?? "";
  const before = typed.slice(0, -1);
  const flags = findGivenFlags(before);
  const [, joinedName, joinedValue] = /^--([a-z-]+)=(.*)$/.exec(current) ?? [];
  if (joinedName !== undefined && joinedValue !== undefined) {
    return planValue(joinedName, joinedValue, { flags, before });
  }
  const name = findFlag(before.at(-1));
  if (takesValue(name)) {
    return planValue(name, current, { flags, before });
  }
  return current.startsWith("-") ? planFlag(before, current) : planArgument(before, current, flags);
}

type Situation = { readonly flags: GivenFlags; readonly before: readonly string[] };

const isFlagName = (name: string): name is FlagName => (FLAG_NAMES as readonly string[]).includes(name);
const takesValue = (name: string): boolean => isFlagName(name) && FLAGS[name].kind.tag !== "switch";
/** The name of the flag that a word is; empty when it is none. */
const findFlag = (word = ""): string => /^--([a-z-]+)$/.exec(word)?.[1] ?? findShort(word) ?? "";
const findShort = (word: string): FlagName | undefined =>
  FLAG_NAMES.find((name) => word === `-${FLAGS[name].short ?? ""}`);

function planValue(name: string, current: string, { flags, before }: Situation): CompletionPlan {
  const command = findCommand(before);
  if (name === "output" && command !== undefined) {
    return choose(COMMANDS[command].outputs ?? [], current);
  }
  return isFlagName(name) ? ask(FLAGS[name].completes, current, flags) : { tag: "words", candidates: [] };
}

function ask(what: Completes | undefined, current: string, flags: GivenFlags): CompletionPlan {
  if (what === undefined) {
    return { tag: "words", candidates: [] };
  }
  return what === "file" ? { tag: "files" } : { tag: "ask", what, prefix: current, flags };
}

function planFlag(before: readonly string[], current: string): CompletionPlan {
  const command = findCommand(before);
  const names = command === undefined ? listFlags("help") : listFlags(command);
  const candidates = [...new Set(names)].map((name) => ({ word: `--${name}`, says: FLAGS[name].says }));
  return { tag: "words", candidates: candidates.filter(({ word }) => word.startsWith(current)) };
}

function planArgument(before: readonly string[], current: string, flags: GivenFlags): CompletionPlan {
  const command = findCommand(before);
  if (command === undefined || command === "help") {
    const candidates = COMMAND_NAMES.map((name) => ({ word: name, says: COMMANDS[name].says }));
    return { tag: "words", candidates: candidates.filter(({ word }) => word.startsWith(current)) };
  }
  if (command === "completion") {
    return choose(SHELLS, current);
  }
  const { max, completes, then } = COMMANDS[command].arguments;
  const given = listPlainWords(before).slice(1);
  if (then !== undefined && given.length === max - 1) {
    return choose(then, current);
  }
  const plan = given.length < max ? ask(completes, current, flags) : { tag: "words" as const, candidates: [] };
  return plan.tag === "ask" && plan.what === "fault" ? { ...plan, given } : plan;
}

const choose = (words: readonly string[], current: string): CompletionPlan => ({
  tag: "words",
  candidates: words.filter((word) => word.startsWith(current)).map((word) => ({ word })),
});

const findCommand = (words: readonly string[]): CommandName | undefined =>
  COMMAND_NAMES.find((name) => name === listPlainWords(words)[0]);

/** Words that are neither flags nor their values. */
function listPlainWords(words: readonly string[]): readonly string[] {
  return words.filter((word, index) => {
    return !word.startsWith("-") && !takesValue(findFlag(words[index - 1]));
  });
}

function findGivenFlags(words: readonly string[]): GivenFlags {
  const names = ["namespace", "context", "kubeconfig"] as const;
  return Object.fromEntries(
    names.flatMap((name) => {
      const joined = words.find((word) => word.startsWith(`--${name}=`))?.slice(name.length + 3);
      const short = FLAGS[name].short;
      const at = words.findIndex((word) => word === `--${name}` || (short !== undefined && word === `-${short}`));
      const value = joined ?? (at < 0 ? undefined : words[at + 1]);
      return value === undefined ? [] : [[name, value] as const];
    }),
  );
}

/** A list such as `node-a,no` is completed after its last comma. */
export function completeNames(names: readonly string[], prefix: string): readonly Candidate[] {
  const comma = prefix.lastIndexOf(",") + 1;
  const [done, current] = [prefix.slice(0, comma), prefix.slice(comma)];
  const taken = done.split(",");
  return names
    .filter((name) => name.startsWith(current) && !taken.includes(name))
    .map((name) => ({ word: `${done}${name}` }));
}

/** 4: nothing but these; 0: files, if there are none. */
export function writeCandidates(candidates: readonly Candidate[] | "files"): readonly string[] {
  if (candidates === "files") {
    return [":0"];
  }
  return [...candidates.map(({ word, says }) => (says === undefined ? word : `${word}\t${says}`)), ":4"];
}

/** The word that asks for candidates instead of doing anything. */
export const COMPLETE_WORD = "__complete";

const SCRIPTS: Readonly<Record<Shell, string>> = {
  bash: `# bash completion of kubectl-twinrun
_kubectl_twinrun() {
  local line directive=4 word=\${COMP_WORDS[COMP_CWORD]} candidates=()
  while IFS= read -r line; do
    case $line in
      :*) directive=\${line#:} ;;
      *) candidates+=("\${line%%$'\\t'*}") ;;
    esac
  done < <(kubectl-twinrun ${COMPLETE_WORD} "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
  if [ "$word" = "=" ]; then word=; fi
  mapfile -t COMPREPLY < <(compgen -W "\${candidates[*]}" -- "$word")
  if [ "$directive" = 0 ]; then compopt -o default; fi
}
complete -F _kubectl_twinrun kubectl-twinrun
`,
  zsh: `#compdef kubectl-twinrun
# zsh completion of kubectl-twinrun
_kubectl_twinrun() {
  local line directive=4
  local -a candidates
  while IFS= read -r line; do
    case $line in
      :*) directive=\${line#:} ;;
      *$'\\t'*) candidates+=("\${\${line%%$'\\t'*}//:/\\\\:}:\${line#*$'\\t'}") ;;
      *) candidates+=("\${line//:/\\\\:}") ;;
    esac
  done < <(kubectl-twinrun ${COMPLETE_WORD} "\${(@)words[2,CURRENT]}" 2>/dev/null)
  if [[ $directive == 0 ]]; then _files; else _describe 'kubectl-twinrun' candidates; fi
}
compdef _kubectl_twinrun kubectl-twinrun
`,
  fish: `# fish completion of kubectl-twinrun
function __kubectl_twinrun_complete
  set -l words (commandline -opc) (commandline -ct)
  kubectl-twinrun ${COMPLETE_WORD} $words[2..-1] 2>/dev/null | string match -v -r '^:[0-9]+$'
end
complete -c kubectl-twinrun -f -a '(__kubectl_twinrun_complete)'
`,
};

export const writeScript = (shell: Shell): string => SCRIPTS[shell];
