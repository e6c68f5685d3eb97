/** How long it takes a guest of HighAvailability to start anew when its node loses power: until its kernel says its first words. */
import { type Bench } from "./bench.ts";
import { assert } from "../../src/lib/assert.ts";
import { buildProtectedGuest } from "../e2e/guest-manifests.ts";
import { type Platform } from "../e2e/platform.ts";
import { SerialLine } from "../e2e/side-files.ts";
import { type Figure, quantilesOf } from "./row.ts";

const guest = "reborn";
const bootsCount = 6;
const targetMs = 20_000;
const patienceMs = 300_000;

type Boot = { readonly kernelMs: number; readonly servicesMs: number };

/** Nothing else is on the platform. */
export async function measureBoots(bench: Bench, platform: Platform): Promise<Figure> {
  const wish = { name: guest, kind: "busybox", address: "10.77.0.65", isVerbose: true } as const;
  const placement = { nodes: ["node-a", "node-b"] };
  await platform.apply(buildProtectedGuest({ ...wish, placement, mode: "HighAvailability" }));
  const boots: Boot[] = [];
  for (let time = 0; time < bench.count(bootsCount); time += 1) {
    boots.push(await bootOnce(platform));
  }
  const { count, ...figures } = quantilesOf(boots.map(({ kernelMs }) => kernelMs));
  const services = quantilesOf(boots.map(({ servicesMs }) => servicesMs));
  bench.say(`  boots: ${boots.map(({ kernelMs }) => kernelMs).join(", ")} ms`);
  return {
    row: {
      name: "cluster: HighAvailability, power off to kernel start",
      unit: "ms",
      ...figures,
      target: `p99 ≤ ${targetMs}`,
      met: figures.p99 <= targetMs,
      detail: { bootsCount: count, services: { p50: services.p50, p99: services.p99, max: services.max } },
    },
    samples: { boots },
  };
}

/** The node that runs the guest loses power; protected again in the end. */
async function bootOnce(platform: Platform): Promise<Boot> {
  const { status } = await platform.waitUntilReady(guest, patienceMs);
  const [from = "", to = ""] = [status?.primary?.node, status?.standby?.node];
  const serial = new SerialLine(status?.guest ?? "", to);
  const struckAtMs = performance.now();
  await platform.lab.powerOff(from);
  await serial.waitForKernel(patienceMs);
  const kernelMs = Math.round(performance.now() - struckAtMs);
  await serial.waitForServices(patienceMs);
  const servicesMs = Math.round(performance.now() - struckAtMs);
  await platform.lab.powerOn(from);
  const after = await platform.waitForProtectedVm(guest, (vm) => vm.status?.standby?.node === from, patienceMs);
  assert(after.status?.primary?.node === to, `the guest stays on ${to}`);
  return { kernelMs, servicesMs };
}
