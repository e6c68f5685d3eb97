import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { execFileSync } from "node:child_process";
import { FakeGuest } from "./fake-guest.ts";
import { TapInput } from "./tap-input.ts";

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
  const input = TapInput.open(guest.pid);
  input.discard();
  sendToGuest(1_200);
  const kept = input.discard();
  expect(kept).toBeGreaterThan(900);
  expect(kept).toBeLessThan(1_200);
  sendToGuest(3);
  expect(input.discard()).toBe(3);
  expect(input.discard()).toBe(0);
  input.close();
});

test("a process without taps has nothing to throw away", () => {
  const input = TapInput.open(process.pid);
  expect(input.discard()).toBe(0);
  input.close();
});
