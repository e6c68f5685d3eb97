import { closeSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { createLog } from "./log.ts";

test("a line is JSON with role, node, guest and the fields, and tells no secret", () => {
  const path = join(tmpdir(), `twinrun-log-${process.pid}.jsonl`);
  const fileDescriptor = openSync(path, "w");
  try {
    const log = createLog({ level: "info", role: "agent", node: "a", fileDescriptor, synchronous: true });
    const guestLog = log.child({ guest: "web" });
    guestLog.debug({}, "not at this level");
    guestLog.warn({ term: 3, token: "t0", tls: { key: "k0" }, deep: { er: { password: "p0" } } }, "engine ended");
    guestLog.error({ error: new Error("broken") }, "failed");
    const text = readFileSync(path, "utf8");
    const [first, second, ...more] = text
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(more).toEqual([]);
    expect(first).toMatchObject({
      level: "warn",
      role: "agent",
      node: "a",
      guest: "web",
      term: 3,
      msg: "engine ended",
    });
    expect(first?.["time"]).toMatch(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
    expect(text).not.toMatch(/t0|k0|p0/);
    expect(second).toMatchObject({ level: "error", error: { message: "broken" } });
  } finally {
    closeSync(fileDescriptor);
    rmSync(path);
  }
});
