/** The hook's command line, turned into what it means or into a sentence that says what is wrong with it. */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Failure } from "../lib/failure.ts";
import { HOOK_VERSIONS, type HookVersion } from "./hook-service.ts";

export type HookFlags = {
  readonly versions: readonly HookVersion[];
  readonly socketDirectory: string;
  readonly shim: string;
};

export class FlagFailure extends Failure<{ readonly code: "BadFlag" }> {}

export const HOOK_USAGE = `usage: node src/main/hook.ts [--version ${HOOK_VERSIONS.join("|")}] [--socket-directory DIRECTORY] [--shim FILE]`;

const TEXT = { type: "string" } as const;
const OPTIONS = { version: TEXT, "socket-directory": TEXT, shim: TEXT };

/**
 * Throws a {@link FlagFailure}. Everything has a default: KubeVirt gives the sidecar of a network binding no arguments. Without
 * a version all are offered.
 */
export function parseHookFlags(args: readonly string[]): HookFlags {
  const values = parseValues(args);
  const version = HOOK_VERSIONS.find((known) => known === values.version);
  if (values.version !== undefined && version === undefined) {
    const says = `--version ${values.version} is none of ${HOOK_VERSIONS.join(", ")}`;
    throw new FlagFailure({ code: "BadFlag" }, says);
  }
  return {
    versions: version === undefined ? HOOK_VERSIONS : [version],
    socketDirectory: values["socket-directory"] ?? "/var/run/kubevirt-hooks",
    shim: values.shim ?? join(import.meta.dirname, "../../build/twinrun-shim.so"),
  };
}

function parseValues(args: readonly string[]): Partial<Record<keyof typeof OPTIONS, string>> {
  try {
    return parseArgs({ args: [...args], options: OPTIONS, strict: true, allowPositionals: false }).values;
  } catch (error) {
    throw new FlagFailure({ code: "BadFlag" }, error instanceof Error ? error.message : String(error));
  }
}
