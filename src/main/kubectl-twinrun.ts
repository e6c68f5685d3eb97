/**
 * `kubectl twinrun`: reads the command line, opens the terminal, runs one command. Started by kubectl-twinrun beside this file.
 *
 * The exit status is that of src/cli/cli-failure.ts; 130 after ^C. A reader that closes the pipe (`| head`) ends it quietly.
 */
import { readFileSync } from "node:fs";
import { decidePaint } from "../cli/paint.ts";
import { run } from "../cli/run.ts";
import { openTerminal } from "../cli/terminal.ts";

const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
  readonly version: string;
};

const { stdin: input, stdout: output, stderr: errors } = process;
for (const stream of [output, errors]) {
  stream.on("error", (error: NodeJS.ErrnoException) => {
    process.exit(error.code === "EPIPE" ? 0 : 1);
  });
}
const interrupted = new AbortController();
process.once("SIGINT", () => {
  interrupted.abort();
});

process.exitCode = await run(process.argv.slice(2), {
  terminal: openTerminal({ input, output, errors }, [
    decidePaint(output.isTTY, process.env),
    decidePaint(errors.isTTY, process.env),
  ]),
  environment: process.env,
  ownVersion: version,
  signal: interrupted.signal,
});
