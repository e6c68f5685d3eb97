/**
 * Small files that survive the agent: written whole or not at all (a temporary file, then a rename). They are not
 * flushed to a disk: what they speak of dies with the host, and a record of an earlier boot counts for nothing.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";

export function writeStateFile(path: string, value: unknown): void {
  const temporary = `${path}.${process.pid}.new`;
  writeFileSync(temporary, `${JSON.stringify(value)}\n`, { mode: 0o600 });
  renameSync(temporary, path);
}

/** Undefined when there is none, or none that can be read: both mean that nothing is known. */
export function readStateFile(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch {
    return undefined;
  }
}

export function removeStateFile(path: string): void {
  rmSync(path, { force: true });
}
