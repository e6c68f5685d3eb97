/** What a QEMU does that misbehaves, or that a busy machine makes look so. The rest is in test/contract/qmp.test.ts. */
import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FakeQemu } from "../../test/build/guest-qemu-fake.ts";
import { connectWithRetry, QmpClient } from "./qmp-client.ts";

let directory: string;
let fake: FakeQemu;
let qmp: QmpClient;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "twinrun-qmp-"));
  fake = await FakeQemu.listen(join(directory, "qmp"));
  qmp = await QmpClient.connect(join(directory, "qmp"));
});

afterEach(() => {
  qmp.close();
  fake.close();
  rmSync(directory, { recursive: true });
});

test("lines that come in pieces, or many at once, are read whole", async () => {
  const name = "gäst".repeat(50_000);
  fake.commands.set("query-name", () => {
    const line = Buffer.from(`{"return":{"name":"${name}"},"id":2}\r\n{"event":"STOP","data":{},"timestamp":{}}\r\n`);
    for (let at = 0; at < line.length; at += 777) {
      fake.write(line.subarray(at, at + 777)); // Cuts through characters of two bytes, too.
    }
    return undefined;
  });
  const events: string[] = [];
  qmp.onEvent(({ event }) => events.push(event));
  expect(await qmp.execute("query-name", {})).toEqual({ name });
  await qmp.execute("query-status", {});
  expect(events).toEqual(["STOP"]);
});

test("a command that is not answered fails in time; its late answer harms nobody", async () => {
  fake.commands.set("query-name", () => undefined);
  const failure = qmp.execute("query-name", {}, { timeoutMs: 20 });
  await expect(failure).rejects.toMatchObject({ detail: { code: "QmpTimedOut", command: "query-name", afterMs: 20 } });
  fake.write('{"return":{"name":"late"},"id":2}\r\n');
  expect(await qmp.execute("query-status", {})).toMatchObject({ running: true });
});

test.each([
  ["no JSON", "Hello!\n"],
  ["no object", "17\n"],
  ["an answer to nothing", '{"return":{}}\n'],
  ["a line without end", Buffer.alloc(9 * 1024 * 1024, 0x20)],
])("%s ends the connection with the reason", async (_what, bytes) => {
  fake.commands.set("query-name", () => undefined);
  const pending = qmp.execute("query-name", {}, { timeoutMs: 0 });
  fake.write(bytes);
  await expect(pending).rejects.toMatchObject({ detail: { code: "QmpClosed", command: "query-name" } });
  expect(await qmp.closed).toMatch(/not QMP/);
});

test("what listens there but is no QMP monitor is told apart", async () => {
  const path = join(directory, "other");
  const server = createServer((socket) => {
    socket.end('{"hello":"world"}\n');
  });
  await new Promise<void>((resolve) => {
    server.listen(path, resolve);
  });
  await expect(QmpClient.connect(path)).rejects.toMatchObject({ detail: { code: "QmpMalformed" } });
  server.close();
});

test("a connection is tried again until QEMU listens, or the caller gives up", async () => {
  const path = join(directory, "later");
  const connecting = connectWithRetry(path, { withinMs: 5_000 });
  const later = await FakeQemu.listen(path);
  const client = await connecting;
  expect(client.isOpen).toBe(true);
  client.close();
  later.close();
  const signal = AbortSignal.abort();
  await expect(connectWithRetry(join(directory, "never"), { withinMs: 60_000, signal })).rejects.toMatchObject({
    detail: { code: "QmpUnreachable" },
  });
});

test("yank goes out of band", async () => {
  fake.commands.set("yank", () => ({ return: {} }));
  await qmp.yank([{ type: "block-node", "node-name": "twinrun-target-0" }]);
  expect(fake.received.at(-1)).toBe("yank");
});
