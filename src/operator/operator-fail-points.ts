/**
 * Fail points: death right after a named action, for tests of an operator that is killed at every step.
 *
 * Armed only where the environment says TWINRUN_FAIL_POINTS=1 and names a file in TWINRUN_FAIL_POINT_FILE. It is looked for after
 * every action: one line "<action> [skip]", where the action is the tag of protected-vm-plan.ts, `writeStatus` or `any`, and `skip`
 * says how often to pass it unharmed. The file is removed before the process dies, so a fail point strikes once.
 */
import { readFileSync, rmSync, writeFileSync } from "node:fs";

export type FailPointEnvironment = Readonly<Record<string, string | undefined>>;

/** Undefined where no fail points are wanted. */
export function openFailPoints(
  environment: FailPointEnvironment,
  die: () => void,
): ((step: string) => void) | undefined {
  const path = environment["TWINRUN_FAIL_POINT_FILE"];
  if (environment["TWINRUN_FAIL_POINTS"] !== "1" || path === undefined) {
    return undefined;
  }
  return (step) => {
    const [wanted = "", skip = "0"] = readLine(path);
    if (wanted !== step && wanted !== "any") {
      return;
    }
    if (Number(skip) > 0) {
      writeFileSync(path, `${wanted} ${Number(skip) - 1}\n`);
      return;
    }
    rmSync(path, { force: true });
    die();
  };
}

function readLine(path: string): readonly string[] {
  try {
    return readFileSync(path, "utf8").trim().split(/\s+/);
  } catch {
    return [];
  }
}
