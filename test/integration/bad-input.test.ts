/** Pairs that cannot be protected as they are configured: the guest serves, and the status says what is wrong and what to do. */
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { truncateSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../src/lib/assert.ts";
import { createCluster, type Cluster, type GuestView } from "../lab/cluster.ts";
import { waitForGuest } from "../lab/guest-health.ts";
import { type GuestSpec } from "../lab/guests.ts";
import { createLab, type Lab } from "../lab/hosts.ts";
import { provideImage } from "../lab/images.ts";
import { startWitnesses, stopWitnesses, sumVerdicts } from "../lab/load.ts";
import { placeGuest, type PlacedGuest } from "../lab/placement.ts";

const patienceMs = 300_000;

let lab: Lab;
let cluster: Cluster;

beforeAll(async () => {
  lab = await createLab();
  const image = await provideImage("busybox", () => undefined);
  const place = (name: string, index: number): PlacedGuest =>
    placeGuest(lab, { name, kind: "busybox", image, index }, "a");
  const small = place("small-disk", 2);
  truncateSync(diskPath(small), 64 * 1024 * 1024);
  const guests = [
    changeStandby(place("ram", 0), (spec) => ({ options: { ...spec.options, memoryMiB: 160 } })),
    // Another kind of guest is another machine type: q35 instead of pc.
    changeStandby(place("machine", 1), () => ({ kind: "debian" })),
    small,
  ];
  cluster = await createCluster(lab, { guests, firstPrimary: "a" });
  cluster.start();
}, patienceMs);

afterAll(async () => {
  await lab.destroy();
}, patienceMs);

test.each([
  ["ram", /RAM block .* bytes on the primary and .* on the standby: give both sides the same memory/],
  ["machine", /machine type is .* on the primary and .*q35.* on the standby: start both with the same/],
  ["small-disk", /disk disk0 has 134217728 bytes, the standby's only 67108864: enlarge the standby's volume/],
])(
  "%s: the guest serves unprotected, and the status names the problem and its remedy",
  async (name, expected) => {
    await waitForGuest(find(name), patienceMs);
    const refused = await waitForMessage(name, expected);
    expect(refused).toMatchObject({ primary: "a", isProtected: false });
    await expectService(find(name));
    expect((await cluster.readGuest(name)).isProtected).toBe(false);
  },
  patienceMs,
);

function changeStandby(guest: PlacedGuest, change: (spec: GuestSpec) => Partial<GuestSpec>): PlacedGuest {
  return { ...guest, specs: { a: guest.specs.a, b: { ...guest.specs.b, ...change(guest.specs.b) } } };
}

const diskPath = ({ specs }: PlacedGuest): string => present(specs.b.disks[0], "a disk on B").path;

const find = (name: string): PlacedGuest =>
  present(
    cluster.guests.find((guest) => guest.name === name),
    name,
  );

async function waitForMessage(name: string, expected: RegExp): Promise<GuestView> {
  const says = (view: GuestView): boolean =>
    view.report?.conditions.some(({ status, message }) => status === "False" && expected.test(message)) ?? false;
  const views = await cluster.waitFor(
    `${name} says ${String(expected)}`,
    (all) => all.some((view) => view.name === name && says(view)),
    patienceMs / 3,
  );
  return present(
    views.find((view) => view.name === name),
    name,
  );
}

async function expectService(guest: PlacedGuest): Promise<void> {
  const witnesses = startWitnesses(lab, guest, { connectionsCount: 2, thinkMs: 20, stallMs: 60_000 });
  await sleep(2000);
  const verdict = sumVerdicts(await stopWitnesses(witnesses));
  expect(verdict).toMatchObject({ lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 });
  expect(verdict.replies).toBeGreaterThan(0);
}
