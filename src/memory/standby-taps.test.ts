import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { execFileSync } from "node:child_process";
import { FakeGuest } from "./fake-guest.ts";
import { StandbyTaps } from "./standby-taps.ts";

let guest: FakeGuest;

beforeEach(async () => {
  guest = await FakeGuest.start({});
  await guest.ask({ tag: "openTap" }, "done");
  const quietly = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
  runBeside(`${quietly}; ip neigh add 10.9.0.2 lladdr 02:00:00:00:01:00 dev tap0`);
});

afterEach(() => guest.stop());

/** Runs a script in the guest's network. */
function runBeside(script: string): void {
  execFileSync("nsenter", ["--target", String(guest.pid), "--net", "bash", "-c", script]);
}

const sendToGuest = (count: number): void => {
  runBeside(`for n in {1..${count}}; do echo $n > /dev/udp/10.9.0.2/9; done`);
};

test("what came in is thrown away, on a tap that is full too, and what comes then is there", () => {
  const taps = StandbyTaps.open(guest.pid);
  taps.discard();
  sendToGuest(1_200);
  const kept = taps.discard();
  expect(kept).toBeGreaterThan(900);
  expect(kept).toBeLessThan(1_200);
  sendToGuest(3);
  expect(taps.discard()).toBe(3);
  expect(taps.discard()).toBe(0);
  taps.close();
});

test("a process without taps has nothing to throw away", () => {
  const taps = StandbyTaps.open(process.pid);
  expect(taps.discard()).toBe(0);
  taps.close();
});

test("announced on a tap by its descriptor or its name, switches look for the card's address there; without a tap nowhere", () => {
  const taps = StandbyTaps.open(guest.pid);
  runBeside("ip link add br0 type bridge; ip link set br0 up; ip link set tap0 master br0");
  const learned = (): string =>
    execFileSync("nsenter", ["-t", String(guest.pid), "-n", "bridge", "fdb", "show", "br", "br0"], {
      encoding: "utf8",
    });
  const byName = { mac: "52:54:00:00:00:07", fd: undefined, interfaceName: "tap0" };
  expect(learned()).not.toContain(byName.mac);
  expect(taps.announce([byName, { ...byName, interfaceName: "tap7" }])).toBe(1);
  expect(learned()).toContain(`${byName.mac} dev tap0`);
  taps.close();
});
