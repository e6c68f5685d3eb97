import { expect, test } from "@jest/globals";
import { encodeMaintenance, findMaintenance, nameMaintenance } from "./maintenance.ts";

const find = (mark: string | undefined): ReturnType<typeof findMaintenance> =>
  findMaintenance({
    metadata: { name: "node-a", annotations: mark === undefined ? {} : { "twinrun.dev/maintenance": mark } },
  });

test("a mark says who, since when and why; one in other words is a reason", () => {
  const maintenance = { by: "root", since: "2026-01-31T08:30:00Z", reason: "kernel", wasCordoned: true };
  expect(find(encodeMaintenance(maintenance))).toEqual(maintenance);
  expect(nameMaintenance("node-a", maintenance)).toBe("node-a@2026-01-31T08:30:00Z");
  const empty = { by: "", since: "", reason: "", wasCordoned: false };
  expect(find("broken fan")).toEqual({ ...empty, reason: "broken fan" });
  expect(find("")).toEqual(empty);
  expect(find("7")).toEqual({ ...empty, reason: "7" });
  expect(find(undefined)).toBeUndefined();
});
