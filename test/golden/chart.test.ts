/** What the chart's files have to agree with; needs no Helm. */
import { describe, expect, test } from "@jest/globals";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { customResources } from "../../src/api/custom-resources.ts";

const root = join(import.meta.dirname, "../..");
const chartPath = join(root, "charts/twinrun");

describe("the files of the chart", () => {
  test("its CRDs are those of crds/ (make generate)", () => {
    const files = customResources.map(({ plural }) => `${plural}.yaml`).sort();
    expect(readdirSync(join(chartPath, "files/crds")).sort()).toEqual(files);
    for (const file of files) {
      expect(readFileSync(join(chartPath, "files/crds", file), "utf8")).toBe(
        readFileSync(join(root, "crds", file), "utf8"),
      );
    }
  });

  test("its version is that of package.json", () => {
    const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
    const chart = parse(readFileSync(join(chartPath, "Chart.yaml"), "utf8")) as Readonly<Record<string, unknown>>;
    expect(chart).toMatchObject({ version, appVersion: version });
    expect(JSON.stringify(chart["annotations"])).toContain(`twinrun/twinrun:${version}`);
  });

  test("alerts and dashboard name metrics that there are, and every alert has its section in README.md", () => {
    const known = new Set(
      ["src/agent/agent-metrics.ts", "src/operator/operator-metrics.ts"].flatMap((path) =>
        [...readFileSync(join(root, path), "utf8").matchAll(/"(twinrun_[a-z_]+)"/g)].map((match) => match[1]),
      ),
    );
    const alerts = parse(readFileSync(join(chartPath, "files/alerts.yaml"), "utf8")) as {
      readonly alert: string;
      readonly expr: string;
    }[];
    const dashboard = readFileSync(join(chartPath, "files/dashboard.json"), "utf8");
    const text = [dashboard, ...alerts.map(({ expr }) => expr)].join("\n");
    const named = [...text.matchAll(/twinrun_[a-z_]+/g)].map(([name]) => name);
    expect(named.length).toBeGreaterThan(20);
    expect(named.filter((name) => !known.has(name))).toEqual([]);
    const readme = readFileSync(join(chartPath, "README.md"), "utf8");
    expect(alerts.map(({ alert }) => alert).filter((alert) => !readme.includes(`### ${alert}\n`))).toEqual([]);
  });
});
