import { readFileSync } from "node:fs";
import { describe, expect, test } from "@jest/globals";
import { parse } from "yaml";
import { expectAccepted, expectChange, expectRefused } from "../../test/build/judge.ts";
import { protectedVmRows } from "../../test/build/protected-vm-rows.ts";
import { buildProtectedVm, buildTemplate, type ResourceObject } from "../../test/build/resources.ts";
import { parseAssignments } from "./assignment-file.ts";
import { decideDetectionMs } from "./fault-tolerance.ts";
import { parseProtectedVm, protectedVmResource } from "./protected-vm.ts";

describe("zod and the CRD take", () => {
  test.each(protectedVmRows.taken)("$when", ({ object }) => {
    expectAccepted(protectedVmResource, parseProtectedVm, object);
  });
});

describe("zod and the CRD refuse", () => {
  test.each(protectedVmRows.refused)("$when", ({ spec, status, path, says }) => {
    expectRefused(protectedVmResource, parseProtectedVm, buildProtectedVm(spec, status), { path, says });
  });
});

describe("the CRD, which sees what was there before,", () => {
  test.each(protectedVmRows.changes)("$when", ({ before, after, refused }) => {
    expectChange(protectedVmResource, { before: buildProtectedVm(before), after: buildProtectedVm(after), refused });
  });
});

test("defaults are filled in, those of the contract as in the agent's assignment file", () => {
  const [assignment] = parseAssignments(
    {
      guests: [
        {
          guest: "web",
          peerNode: "b",
          firstPrimary: "a",
          port: 1,
          links: [{ name: "l", localHost: "a", peerHost: "b" }],
          disks: [],
          qemu: { binary: "qemu", args: ["-S1"] },
        },
      ],
    },
    "file",
  );
  const { spec } = parseProtectedVm(buildProtectedVm(), "object");
  expect(spec).toMatchObject({
    storage: {
      first: { accessModes: ["ReadWriteOnce"], sizePolicy: "Capacity" },
      second: { accessModes: ["ReadWriteOnce"], sizePolicy: "Capacity" },
    },
    checkpoint: { maxAddedLatencyMs: 50, minIntervalMs: 5, maxIntervalMs: 1_000 },
    failover: { reprotect: "Automatic" },
  });
  expect(spec.checkpoint).toEqual(assignment?.checkpoint);
  expect(decideDetectionMs(spec)).toBe(assignment?.failover.detectionTimeoutMs);
});

test("what KubeVirt alone understands of a template is kept as it is", () => {
  const object = buildProtectedVm(
    buildTemplate({ domain: { devices: { disks: [{ name: "a" }] }, cpu: { cores: 2 } } }),
  );
  expect(parseProtectedVm(object, "object").spec.virtualMachineTemplate).toMatchObject({
    spec: { template: { spec: { domain: { devices: { disks: [{ name: "a" }] }, cpu: { cores: 2 } } } } },
  });
});

test("the sample is taken, and nothing in it is unknown", () => {
  const sample = parse(
    readFileSync(new URL("../../config/samples/protected-vm.yaml", import.meta.url), "utf8"),
  ) as ResourceObject;
  expectAccepted(protectedVmResource, parseProtectedVm, sample);
  expect(parseProtectedVm(sample, "sample")).toMatchObject(sample);
});
