/**
 * How whoever wants something of a lab asks the process that has it: over a socket in build/lab, or in TWINRUN_LAB for another lab
 * beside that. A command and its arguments go there as a line of JSON, an {@link Answer} comes back.
 */
import { connect, type Socket } from "node:net";
import { join, resolve } from "node:path";
import { Failure } from "../../../src/lib/failure.ts";

export class LabCommandFailure extends Failure<{ readonly code: "NoLab" | "NotUnderstood" | "NotDone" }> {}

/** One lab for each directory. */
export const labDirectory = resolve(process.env["TWINRUN_LAB"] ?? join(import.meta.dirname, "../../../build/lab"));
/** A socket's path may have no more than a hundred characters, so both ends go to its directory first. */
export const socketName = "socket";

export type Answer =
  { readonly tag: "done"; readonly text: string } | { readonly tag: "failed"; readonly message: string };

/** What the command `facts` answers, as JSON. */
export type LabFacts = {
  readonly kubeconfigPath: string;
  readonly nodeNames: readonly string[];
  /** A network namespace of this machine: the computer whose only network is the guests'. */
  readonly clientNamespace: string;
};

/** The answer of the lab that runs; a failure when there is none, or it could not do it. */
export async function askLab(command: readonly string[]): Promise<string> {
  const socket = await connectToLab();
  socket.write(`${JSON.stringify(command)}\n`);
  let text = "";
  for await (const part of socket.setEncoding("utf8")) {
    text += part as string;
  }
  const given = JSON.parse(text) as Answer;
  if (given.tag === "failed") {
    throw new LabCommandFailure({ code: "NotDone" }, given.message);
  }
  return given.text;
}

function connectToLab(): Promise<Socket> {
  const here = process.cwd();
  return new Promise((resolve, reject) => {
    const refuse = (): void => {
      reject(new LabCommandFailure({ code: "NoLab" }, "no lab runs: make lab"));
    };
    try {
      process.chdir(labDirectory);
      const socket = connect(socketName, () => {
        resolve(socket);
      });
      socket.on("error", refuse);
    } catch {
      refuse();
    } finally {
      process.chdir(here);
    }
  });
}
