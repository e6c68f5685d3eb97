/** One command, from the command line to the exit status. */
import { constants } from "node:os";
import { InputFailure } from "../api/checked-input.ts";
import { Failure } from "../lib/failure.ts";
import { hasKubeCode } from "../kube/kube-failure.ts";
import { CliFailure, type CliFailureCode, EXIT_STATUSES, usageWrong } from "./cli-failure.ts";
import { type Invocation, parseCommandLine } from "./command-line.ts";
import { COMMAND_NAMES, type CommandName, SHELLS } from "./command-table.ts";
import { COMPLETE_WORD, writeScript } from "./completion.ts";
import { openCluster } from "./connection.ts";
import { writeCommandHelp, writeHelp } from "./help.ts";
import { runFailover, runSwitchover, runUnprotect } from "./run-changes.ts";
import { runComplete } from "./run-complete.ts";
import { runDoctor } from "./run-doctor.ts";
import { runExport } from "./run-export.ts";
import { runImport } from "./run-import.ts";
import { runFaults } from "./run-faults.ts";
import { runLogs } from "./run-logs.ts";
import { runMaintenance } from "./run-maintenance.ts";
import { runProtect } from "./run-protect.ts";
import { runResync } from "./run-resync.ts";
import { runDescribe, runEvents, runStatus } from "./run-status.ts";
import { runVersion } from "./run-version.ts";
import { type Session } from "./session.ts";
import { type Terminal } from "./terminal.ts";

export type Surroundings = {
  readonly terminal: Terminal;
  readonly environment: NodeJS.ProcessEnv;
  readonly ownVersion: string;
  /** Aborted by ^C. */
  readonly signal: AbortSignal;
};

/** The exit status. Whatever is expected to go wrong has been said in one sentence; a bug is thrown. */
export async function run(args: readonly string[], surroundings: Surroundings): Promise<number> {
  const { terminal, environment, signal } = surroundings;
  try {
    if (args[0] === COMPLETE_WORD) {
      terminal.print(await runComplete(args.slice(1), environment));
      return 0;
    }
    return await runCommand(parseCommandLine(args), surroundings);
  } catch (error) {
    if (signal.aborted) {
      terminal.say("not waited for any more");
      return 128 + constants.signals.SIGINT;
    }
    return explain(error, terminal);
  }
}

function explain(error: unknown, terminal: Terminal): number {
  if (!(error instanceof Failure)) {
    throw error;
  }
  const code = codeOf(error as Failure<{ readonly code: string }>);
  terminal.say(`${terminal.saysPaint.bad("error:")} ${error.message}`);
  if (code === "UsageWrong") {
    terminal.say("`kubectl twinrun help` shows what there is");
  }
  return EXIT_STATUSES[code].status;
}

function codeOf(error: Failure<{ readonly code: string }>): CliFailureCode {
  if (error instanceof CliFailure) {
    return error.detail.code;
  }
  if (error instanceof InputFailure) {
    return "UsageWrong";
  }
  const noEntry = ["Unreachable", "TimedOut", "Untrusted", "Unauthorized", "Forbidden", "AccessUnusable"] as const;
  return hasKubeCode(error, ...noEntry) ? "Unreachable" : "Failed";
}

type NeedsCluster = Exclude<CommandName, "help" | "completion">;

const COMMANDS_BY_NAME: Readonly<Record<NeedsCluster, (session: Session) => Promise<number>>> = {
  status: runStatus,
  describe: runDescribe,
  protect: runProtect,
  unprotect: runUnprotect,
  switchover: runSwitchover,
  failover: runFailover,
  resync: runResync,
  maintenance: runMaintenance,
  import: runImport,
  export: runExport,
  events: runEvents,
  faults: runFaults,
  doctor: runDoctor,
  logs: runLogs,
  version: runVersion,
};

async function runCommand(invocation: Invocation, surroundings: Surroundings): Promise<number> {
  const { terminal } = surroundings;
  const { command, names } = invocation;
  if (command === "help") {
    terminal.print(chooseHelp(names[0]));
    return 0;
  }
  if (command === "completion") {
    terminal.print([chooseScript(names[0] ?? "")]);
    return 0;
  }
  return runWithCluster(COMMANDS_BY_NAME[command], invocation, surroundings);
}

function chooseHelp(word: string | undefined): readonly string[] {
  const name = COMMAND_NAMES.find((each) => each === word);
  if (word !== undefined && name === undefined) {
    throw usageWrong(`there is no command ${word}; commands are ${COMMAND_NAMES.join(", ")}`);
  }
  return name === undefined || name === "help" ? writeHelp() : writeCommandHelp(name);
}

function chooseScript(word: string): string {
  const shell = SHELLS.find((each) => each === word);
  if (shell === undefined) {
    throw usageWrong(`completion is for ${SHELLS.join(", ")}, not for ${word}`);
  }
  return writeScript(shell).trimEnd();
}

const DEFAULT_TIMEOUT_MS = 30_000;
/** What a timer can be set to at most. */
const FOREVER_MS = 2 ** 31 - 1;

async function runWithCluster(
  command: (session: Session) => Promise<number>,
  invocation: Invocation,
  { terminal, environment, ownVersion, signal }: Surroundings,
): Promise<number> {
  const { texts, numbers } = invocation;
  const timeoutMs = numbers.get("request-timeout") ?? DEFAULT_TIMEOUT_MS;
  const cluster = openCluster({ kubeconfig: texts.get("kubeconfig"), context: texts.get("context") }, environment);
  try {
    return await command({
      ...{ invocation, cluster, terminal, ownVersion, signal },
      call: { signal, timeoutMs: timeoutMs === 0 ? FOREVER_MS : timeoutMs },
      systemNamespace: texts.get("system-namespace") ?? environment["TWINRUN_NAMESPACE"] ?? "twinrun",
    });
  } finally {
    cluster.close();
  }
}
