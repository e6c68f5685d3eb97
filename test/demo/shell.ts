/** Commands that are shown to a person as they are run, so that they can be repeated. */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { type Narrator } from "./narrator.ts";

const root = join(import.meta.dirname, "../..");

export class Shell {
  readonly #narrator: Narrator;
  readonly #environmentFile: string;

  /** A person would source `environmentFile` once, as soon as there is one. */
  constructor(narrator: Narrator, environmentFile = "") {
    this.#narrator = narrator;
    this.#environmentFile = environmentFile;
  }

  /** Shows a line, runs it in the top directory of the checkout, and shows what it says; a failure when it fails. */
  async show(line: string): Promise<void> {
    this.#narrator.say(`$ ${line}`);
    const file = this.#environmentFile;
    const environment = file === "" ? "" : `[ ! -e ${file} ] || . ./${file};`;
    // A make that knows that make started it tells so.
    const script = `unset MAKELEVEL MAKEFLAGS MFLAGS; ${environment} ${line}`;
    const child = spawn("sh", ["-c", script], { cwd: root, stdio: ["ignore", "inherit", "inherit"] });
    const status = await new Promise((resolve) => child.on("exit", resolve));
    if (status !== 0) {
      throw new Error(`${line}: it ended with ${String(status)}`);
    }
  }
}
