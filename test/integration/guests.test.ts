/** Guests of other shapes than the ones the soak kills: each survives the death of its QEMU, and nobody notices. */
import { expect, test } from "@jest/globals";
import { existsSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../src/lib/assert.ts";
import { createCluster, type ClusterOptions } from "../lab/cluster.ts";
import { waitForGuest } from "../lab/guest-health.ts";
import { withLab } from "../lab/hosts.ts";
import { provideImage } from "../lab/images.ts";
import { countReplies, isFlawless, startWitnesses, stopWitnesses, sumVerdicts } from "../lab/load.ts";
import { placeGuest, type GuestRequest, type PairHost, type PlacedGuest } from "../lab/placement.ts";

const patienceMs = 300_000;

type Variety = {
  readonly name: string;
  readonly request?: Partial<GuestRequest>;
  readonly options?: Partial<ClusterOptions>;
  /** What must hold in the end besides. */
  readonly check?: (guest: PlacedGuest) => void;
};

const firmware = ["_4M", ""]
  .map((size) => `/usr/share/OVMF/OVMF_CODE${size}.fd`)
  .filter((code) => existsSync(code))
  .map((code) => ({ code, variables: code.replace("CODE", "VARS") }));

const varieties: readonly Variety[] = [
  { name: "full comparison as its tracker", options: { tracker: "comparison" } },
  {
    name: "UEFI and its variables",
    // OVMF falls over in less memory.
    request: { firmware: present(firmware[0], "OVMF"), options: { memoryMiB: 256 } },
    check: expectSameVariables,
  },
];

test.each(varieties)(
  "a guest with $name survives a kill of its QEMU",
  async ({ request = {}, options = {}, check }) => {
    await withLab({}, async (lab) => {
      const image = await provideImage("busybox", () => undefined);
      const guest = placeGuest(lab, { name: "guest", kind: "busybox", image, index: 0, ...request }, "a");
      const cluster = await createCluster(lab, { guests: [guest], firstPrimary: "a", ...options });
      cluster.start();
      await waitForGuest(guest, patienceMs);
      await cluster.waitUntilProtected(patienceMs);
      const witnesses = startWitnesses(lab, guest, { connectionsCount: 2, thinkMs: 20, stallMs: 60_000 });
      await sleep(2000);

      await cluster.killQemu("a", guest.name);
      await cluster.waitFor("the guest runs on B", ([view]) => view?.primary === "b", patienceMs);
      await cluster.waitUntilProtected(patienceMs);
      const repliesCount = countReplies(witnesses);
      await sleep(2000);

      const verdict = sumVerdicts(await stopWitnesses(witnesses));
      expect(verdict).toMatchObject({ survived: 2, lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 });
      expect(isFlawless(verdict)).toBe(true);
      expect(verdict.replies).toBeGreaterThan(repliesCount);
      check?.(guest);
    });
  },
  patienceMs,
);

/** The firmware wrote them at the guest's first start, and QEMU wrote them out on the host that took over. */
function expectSameVariables({ specs }: PlacedGuest): void {
  const read = (host: PairHost): Buffer =>
    readFileSync(present(specs[host].options.firmware, "firmware of the guest").variables);
  expect(read("b").equals(read("a"))).toBe(true);
  expect(read("b").equals(readFileSync(present(firmware[0], "OVMF").variables))).toBe(false);
}
