/** What a command that was just started says until its end. */
import { type ChildProcess } from "node:child_process";
import { Failure } from "../../src/lib/failure.ts";

export class LabCommandFailure extends Failure<{ readonly code: "LabCommandFailed"; readonly command: string }> {}

/** Its standard output; throws a {@link LabCommandFailure} with what it said when it fails. `where` is told to people. */
export function collectOutput(child: ChildProcess, command: readonly string[], where: string): Promise<string> {
  let output = "";
  let said = "";
  child.stdout?.setEncoding("utf8").on("data", (text: string) => (output += text));
  child.stderr?.setEncoding("utf8").on("data", (text: string) => (said += text));
  return new Promise((resolve, reject) => {
    child.on("error", reject).on("close", (status, signal) => {
      if (status === 0) {
        resolve(output);
      } else {
        const line = command.join(" ");
        const message = `${line} on ${where} ended with ${signal ?? String(status)}: ${said.trim()}`;
        reject(new LabCommandFailure({ code: "LabCommandFailed", command: line }, message));
      }
    });
  });
}
