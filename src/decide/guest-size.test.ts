import { describe, expect, test } from "@jest/globals";
import { isMemoryPluggable, readMemory, readSockets } from "./guest-size.ts";

describe("how large a guest is", () => {
  test.each([
    [{ cpu: { cores: 2 } }, 1],
    [{ cpu: { sockets: 2, cores: 2 } }, 2],
    [{ cpu: { sockets: 0, threads: 2 } }, 1],
    [{ cpu: { model: "Haswell" }, resources: { requests: { cpu: "3" } } }, 3],
    [{ resources: { requests: { cpu: 2 } } }, 2],
    [{ resources: { requests: { cpu: "1500m" } } }, 2],
    [{ resources: { requests: { cpu: "1" }, limits: { cpu: "4" } } }, 4],
    [{ cpu: { cores: 1 }, resources: { requests: { cpu: "4" } } }, 1],
    [{ resources: { requests: { cpu: "100m" } } }, 1],
    [{}, 1],
  ])("%j has %d sockets", (domain, sockets) => {
    expect(readSockets({ domain })).toBe(sockets);
  });

  test.each([
    [{ memory: { guest: "2Gi" }, resources: { requests: { memory: "1Gi" } } }, "2Gi"],
    [{ resources: { requests: { memory: "1Gi" }, limits: { memory: "2Gi" } } }, "1Gi"],
    [{ resources: { limits: { memory: "2Gi" } } }, "2Gi"],
    [{ memory: { guest: 1_073_741_824 } }, "1073741824"],
    [{}, undefined],
  ])("%j has %s of memory", (domain, memory) => {
    expect(readMemory({ domain })).toBe(memory);
  });

  test.each([
    ["1Gi", true],
    ["1025Mi", false],
    ["768Mi", false],
    [undefined, false],
  ])("KubeVirt may plug memory into a guest of %s: %s", (guest, isPluggable) => {
    expect(isMemoryPluggable({ domain: { memory: { guest } } })).toBe(isPluggable);
  });

  test("but not where the processor or the memory's layout forbids it, or on other machines", () => {
    const memory = { guest: "2Gi" };
    expect(isMemoryPluggable({ domain: { memory, cpu: { realtime: {} } } })).toBe(false);
    expect(isMemoryPluggable({ domain: { memory, cpu: { numa: { guestMappingPassthrough: {} } } } })).toBe(false);
    expect(isMemoryPluggable({ architecture: "arm64", domain: { memory } })).toBe(false);
  });
});
