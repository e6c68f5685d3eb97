/** A computer in the guests' network `lan` of a lab, and in no other: where clients of guests run. */
import { type ChildProcess, spawn } from "node:child_process";
import { collectOutput } from "../command-output.ts";
import { type SpawnOptions } from "../hosts.ts";

export class LabClient {
  readonly #namespace: string;

  constructor(namespace: string) {
    this.#namespace = namespace;
  }

  /** As hosts of test/lab/hosts.ts do. */
  spawn(_host: "c", command: readonly string[], options: SpawnOptions = {}): ChildProcess {
    return spawn("ip", ["netns", "exec", this.#namespace, ...command], {
      detached: true,
      stdio: options.stdio ?? ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...options.environment },
    });
  }

  /** Runs such a program to its end; its standard output, or a failure with what it said. */
  execute(host: "c", command: readonly string[]): Promise<string> {
    return collectOutput(this.spawn(host, command), command, "the client");
  }
}
