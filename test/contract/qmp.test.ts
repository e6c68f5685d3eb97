/** The QMP client against the fake and against real QEMUs: one suite, so that the fake cannot drift from what QEMU does. */
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connectWithRetry, QmpClient, type QmpEvent } from "../../src/qemu/qmp-client.ts";
import { type QmpCommandName } from "../../src/qemu/qmp-commands.ts";
import { GuestQemu, provideQemuBuilds } from "../build/guest-qemu.ts";
import { FakeQemu } from "../build/guest-qemu-fake.ts";

type Monitor = { readonly path: string; readonly end: () => Promise<void> | void };
type Kind = { readonly name: string; readonly start: (directory: string) => Promise<Monitor> };

const kinds: readonly Kind[] = [
  {
    name: "the fake",
    start: async (directory) => {
      const path = join(directory, "qmp");
      const fake = await FakeQemu.listen(path);
      return {
        path,
        end: () => {
          fake.close();
        },
      };
    },
  },
  ...(await provideQemuBuilds()).map((build): Kind => ({
    name: build.name,
    start: async (directory) => {
      const guest = await GuestQemu.start({ build, directory });
      guest.qmp.close();
      return { path: join(directory, "qmp"), end: () => guest.kill() };
    },
  })),
];

const missing = "no-such-command" as QmpCommandName;

describe.each(kinds)("$name", ({ start }) => {
  let directory: string;
  let monitor: Monitor;
  let qmp: QmpClient;

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), "twinrun-qmp-"));
    monitor = await start(directory);
    qmp = await connectWithRetry(monitor.path, { withinMs: 5_000 });
  });

  afterEach(async () => {
    qmp.close();
    await monitor.end();
    rmSync(directory, { recursive: true });
  });

  test("greets with its version and answers", async () => {
    expect(qmp.version.major).toBeGreaterThanOrEqual(7);
    expect(await qmp.execute("query-status", {})).toMatchObject({ status: "running", running: true });
    expect(await qmp.hasCommand("stop")).toBe(true);
    expect(await qmp.hasCommand(missing)).toBe(false);
  });

  test("a command that is missing or refused fails by its code", async () => {
    await expect(qmp.assertCommands(["stop", missing])).rejects.toMatchObject({ detail: { code: "CommandMissing" } });
    await expect(qmp.execute(missing, {})).rejects.toMatchObject({
      detail: { code: "CommandMissing", command: missing },
    });
    await expect(qmp.execute("object-del", { id: "x" })).rejects.toMatchObject({
      detail: { code: "QmpRejected", command: "object-del", class: "GenericError" },
    });
  });

  test("a batch is answered in its order and goes on after a failure", async () => {
    const outcomes = await qmp.batch([
      { command: "stop", args: {} },
      { command: "query-status", args: {} },
      { command: "object-del", args: { id: "x" } },
      { command: "cont", args: {} },
      { command: "query-status", args: {} },
    ]);
    expect(outcomes.map(({ tag }) => tag)).toEqual(["done", "done", "failed", "done", "done"]);
    expect(outcomes[1]).toMatchObject({ value: { running: false } });
    expect(outcomes[4]).toMatchObject({ value: { running: true } });
  });

  test("an event comes before the answer of the command that caused it", async () => {
    const seen: string[] = [];
    const unsubscribe = qmp.onEvent(({ event, atMs }: QmpEvent) => {
      expect(atMs).toBeGreaterThan(1_600_000_000_000);
      seen.push(event);
    });
    await qmp.execute("stop", {}).then(() => seen.push("stopped"));
    await qmp.execute("cont", {}).then(() => seen.push("continued"));
    expect(seen).toEqual(["STOP", "stopped", "RESUME", "continued"]);
    unsubscribe();
    await qmp.execute("stop", {});
    expect(seen).toHaveLength(4);
  });

  test("a primed command runs when fired, and survives other commands before that", async () => {
    const stop = qmp.prime("stop", {});
    const cont = qmp.prime("cont", {}); // Ends the priming of stop.
    expect((await qmp.execute("query-status", {})).running).toBe(true); // And that of cont.
    await stop.fire();
    expect((await qmp.execute("query-status", {})).running).toBe(false);
    const primed = qmp.prime("cont", {});
    await primed.fire();
    expect((await qmp.execute("query-status", {})).running).toBe(true);
    await cont.fire();
    expect(await qmp.batch([{ command: "query-status", args: {} }])).toMatchObject([{ value: { running: true } }]);
  });

  test("one client at a time: another gets no greeting, and is served when the first has gone", async () => {
    const second = QmpClient.connect(monitor.path, { connectTimeoutMs: 200 });
    await expect(second).rejects.toMatchObject({ detail: { code: "QmpUnreachable" } });
    const third = QmpClient.connect(monitor.path, { connectTimeoutMs: 10_000 });
    qmp.prime("stop", {}); // Half a command does not outlive its connection.
    qmp.close();
    const client = await third;
    expect((await client.execute("query-status", {})).running).toBe(true);
    client.close();
  });

  test("when the monitor goes everything settles", async () => {
    const reason = qmp.closed;
    const pending = qmp.execute("query-status", {}).catch((error: unknown) => error);
    await monitor.end();
    expect(await reason).toMatch(/./);
    await pending;
    await expect(qmp.execute("stop", {})).rejects.toMatchObject({ detail: { code: "QmpClosed", command: "stop" } });
    await expect(qmp.prime("stop", {}).fire()).rejects.toMatchObject({ detail: { code: "QmpClosed" } });
    expect(qmp.isOpen).toBe(false);
  });

  test("nobody there is told with the path", async () => {
    const nowhere = connectWithRetry(join(directory, "nowhere"), { withinMs: 30 });
    await expect(nowhere).rejects.toMatchObject({
      detail: { code: "QmpUnreachable", path: join(directory, "nowhere") },
    });
  });
});
