/**
 * What the lab's guests do without protection, printed as a table: the ground every other figure stands on.
 *
 *   node test/lab/baseline.ts [SECONDS a load] [--debian]
 */
import { setTimeout as sleep } from "node:timers/promises";
import { waitForGuest } from "./guest-health.ts";
import { type GuestKind } from "./guests.ts";
import { withLab, type Lab } from "./hosts.ts";
import { provideImage } from "./images.ts";
import { placeGuest, startUnprotected, type PlacedGuest } from "./placement.ts";
import { measureStream } from "./clients/stream.ts";
import { measureBurn, measureEcho, measurePgbench, measureRedis, measureSynced, type Measured } from "./workloads.ts";
import { waitForPostgres } from "./clients/pgbench.ts";

const say = (line: string): void => {
  process.stdout.write(`${line}\n`);
};

const durationMs = 1000 * Number(process.argv[2] ?? "5");
const kinds: readonly GuestKind[] = process.argv.includes("--debian") ? ["debian"] : ["busybox", "debian"];

type Load = readonly [name: string, run: (lab: Lab, host: string) => Promise<Measured>];
const loads: Readonly<Record<GuestKind, readonly Load[]>> = {
  busybox: [
    ["synced request, 1 client", (lab, host) => measureSynced(lab, host, durationMs)],
    ["synced request, 4 clients", (lab, host) => measureSynced(lab, host, durationMs, { connectionsCount: 4 })],
    ["echo, 1 client", (lab, host) => measureEcho(lab, host, durationMs)],
    ["burn (loops/s)", (lab, host) => measureBurn(lab, host, durationMs)],
  ],
  debian: [
    ["synced request, 1 client", (lab, host) => measureSynced(lab, host, durationMs)],
    ["redis SET, 1 client", (lab, host) => measureRedis(lab, host, durationMs)],
    ["redis SET, 50 clients", (lab, host) => measureRedis(lab, host, durationMs, { connectionsCount: 50 })],
    ["pgbench, 2 clients", (lab, host) => measurePgbench(lab, host, durationMs, 2)],
    ["pgbench, 8 clients", (lab, host) => measurePgbench(lab, host, durationMs, 8)],
    ["burn (loops/s)", (lab, host) => measureBurn(lab, host, durationMs, 1_000_000)],
  ],
};

async function measureGuest(lab: Lab, guest: PlacedGuest): Promise<void> {
  const startedAtMs = Date.now();
  const qemu = startUnprotected(lab, guest, "a");
  await waitForGuest(guest, 120_000);
  say(`${guest.kind}: services after ${((Date.now() - startedAtMs) / 1000).toFixed(1)} s`);
  if (guest.kind === "debian") {
    await waitForPostgres(lab, guest.address, 120_000);
    say(`${guest.kind}: PostgreSQL after ${((Date.now() - startedAtMs) / 1000).toFixed(1)} s`);
    await sleep(3000); // What systemd still has to do is not part of any load.
  }
  for (const [name, run] of loads[guest.kind]) {
    const { perSecond, latency } = await run(lab, guest.address);
    say(
      `${guest.kind}: ${name.padEnd(26)} ${perSecond.toFixed(1).padStart(10)} /s   ` +
        `p50 ${latency.p50Ms.toFixed(2)}  p99 ${latency.p99Ms.toFixed(2)}  max ${latency.maxMs.toFixed(1)} ms`,
    );
  }
  qemu.kill("SIGKILL");
}

await withLab({ say }, async (lab) => {
  const stream = await measureStream(lab, ["a", "b"], "replication1", 1024 * 1024 * 1024);
  say(`raw TCP stream between the hosts: ${stream.mebibytesPerSecond.toFixed(0)} MiB/s`);
  for (const [index, kind] of kinds.entries()) {
    const image = await provideImage(kind, say);
    await measureGuest(lab, placeGuest(lab, { name: `base-${kind}`, kind, image, index }, "a"));
  }
});
