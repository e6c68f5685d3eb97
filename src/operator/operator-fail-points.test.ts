import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { openFailPoints } from "./operator-fail-points.ts";

describe("fail points", () => {
  let directory: string;
  let deaths = 0;
  const die = (): void => {
    deaths += 1;
  };

  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "twinrun-test-"));
  });

  afterAll(() => {
    rmSync(directory, { recursive: true });
  });

  test("strike once, at the step they name, after as many passes as they were told", () => {
    const file = join(directory, "fail-point");
    const pass = openFailPoints({ TWINRUN_FAIL_POINTS: "1", TWINRUN_FAIL_POINT_FILE: file }, die);
    pass?.("applyPair");
    writeFileSync(file, "applyPair 1\n");
    for (const step of ["createObject", "applyPair", "applyPair", "applyPair"]) {
      pass?.(step);
    }
    expect(deaths).toBe(1);
    expect(existsSync(file)).toBe(false);
  });

  test("are not there unless they are armed", () => {
    expect(openFailPoints({ TWINRUN_FAIL_POINT_FILE: "x" }, die)).toBeUndefined();
    expect(openFailPoints({ TWINRUN_FAIL_POINTS: "1" }, die)).toBeUndefined();
  });
});
