/**
 * Every single measurement of an engine in a file, for a benchmark that wants more than quantiles.
 *
 * One line a sample: "EPOCH_MS NAME VALUE", appended to DIRECTORY/GUEST-NODE.samples. Samples wait in memory and are written
 * once a second: nothing is written while the guest stands still. Off unless the environment variable TWINRUN_SAMPLES names
 * a directory; what a crash leaves unwritten is lost.
 */
import { appendFile, mkdirSync } from "node:fs";
import { join } from "node:path";

const WRITE_EVERY_MS = 1000;

export type RecordSample = (name: string, value: number) => void;

/** Undefined when nobody asked for samples. */
export function openSampleLog(guest: string, node: string): RecordSample | undefined {
  const directory = process.env["TWINRUN_SAMPLES"];
  if (directory === undefined || directory === "") {
    return undefined;
  }
  mkdirSync(directory, { recursive: true });
  const path = join(directory, `${guest}-${node}.samples`);
  let waiting = "";
  setInterval(() => {
    const lines = waiting;
    waiting = "";
    if (lines !== "") {
      appendFile(path, lines, () => undefined); // A benchmark that finds no samples says so.
    }
  }, WRITE_EVERY_MS).unref();
  return (name, value) => {
    waiting += `${Date.now()} ${name} ${value.toFixed(4)}\n`;
  };
}
