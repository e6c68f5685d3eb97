import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { parsePrometheusText } from "../../test/build/prometheus-text.ts";
import { AssertionFailed } from "../lib/assert.ts";
import { MetricsRegistry } from "./metrics.ts";

describe("the Prometheus text", () => {
  test("is exactly what the format asks for", () => {
    const registry = new MetricsRegistry();
    registry
      .counter({ name: "twinrun_takeovers_total", help: "Takeovers.", labelNames: ["guest"] })
      .add(2, { guest: "web" });
    registry.gauge({ name: "twinrun_term", help: "Line one.\nBack\\slash." }).set(7);
    const pause = registry.histogram({ name: "twinrun_pause_seconds", help: "Pause.", bounds: [0.001, 0.01] });
    pause.observe(0.001);
    pause.observe(0.002);
    pause.observe(3);
    registry
      .summary({ name: "twinrun_lag_seconds", help: "Lag.", labelNames: ["guest"] })
      .set({ quantiles: { "0.5": 0.25 }, sum: 1.5, count: 3 }, { guest: 'a"b\\c\nd' });
    expect(registry.write()).toBe(
      [
        "# HELP twinrun_takeovers_total Takeovers.",
        "# TYPE twinrun_takeovers_total counter",
        'twinrun_takeovers_total{guest="web"} 2',
        "# HELP twinrun_term Line one.\\nBack\\\\slash.",
        "# TYPE twinrun_term gauge",
        "twinrun_term 7",
        "# HELP twinrun_pause_seconds Pause.",
        "# TYPE twinrun_pause_seconds histogram",
        'twinrun_pause_seconds_bucket{le="0.001"} 1',
        'twinrun_pause_seconds_bucket{le="0.01"} 2',
        'twinrun_pause_seconds_bucket{le="+Inf"} 3',
        "twinrun_pause_seconds_sum 3.003",
        "twinrun_pause_seconds_count 3",
        "# HELP twinrun_lag_seconds Lag.",
        "# TYPE twinrun_lag_seconds summary",
        'twinrun_lag_seconds{guest="a\\"b\\\\c\\nd",quantile="0.5"} 0.25',
        'twinrun_lag_seconds_sum{guest="a\\"b\\\\c\\nd"} 1.5',
        'twinrun_lag_seconds_count{guest="a\\"b\\\\c\\nd"} 3',
        "",
      ].join("\n"),
    );
  });

  test("can be read back whatever labels and values it holds", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.string({ unit: "binary" })), fc.double(), fc.string(), (guests, value, help) => {
        const registry = new MetricsRegistry();
        const gauge = registry.gauge({ name: "twinrun_x", help, labelNames: ["guest"] });
        for (const guest of guests) {
          gauge.set(value, { guest });
        }
        const samples = parsePrometheusText(registry.write()).get("twinrun_x")?.samples;
        expect(samples?.map(({ labels }) => labels["guest"])).toEqual(guests);
        // Prometheus knows no negative zero either.
        expect(samples?.every((sample) => Object.is(sample.value + 0, value + 0))).toBe(true);
      }),
    );
  });

  test("loses the series of a subject that is gone, and only those", () => {
    const registry = new MetricsRegistry();
    const term = registry.gauge({ name: "twinrun_term", help: "Term.", labelNames: ["guest", "side"] });
    const up = registry.gauge({ name: "twinrun_up", help: "Up." });
    term.set(1, { guest: "a", side: "x" });
    term.set(1, { guest: "a", side: "y" });
    term.set(1, { guest: "b", side: "x" });
    up.set(1);
    registry.remove({ guest: "a" });
    const families = parsePrometheusText(registry.write());
    expect(families.get("twinrun_term")?.samples.map(({ labels }) => labels["guest"])).toEqual(["b"]);
    expect(families.get("twinrun_up")?.samples).toHaveLength(1);
  });
});

describe("a mistake in the program is an assertion", () => {
  test.each<{ when: string; act: (registry: MetricsRegistry) => void }>([
    { when: "a name is bad", act: (r) => r.gauge({ name: "twin-run", help: "" }) },
    { when: "a label name is bad", act: (r) => r.gauge({ name: "x", help: "", labelNames: ["a-b"] }) },
    { when: "a label is reserved", act: (r) => r.summary({ name: "x", help: "", labelNames: ["quantile"] }) },
    { when: "a counter lacks _total", act: (r) => r.counter({ name: "x", help: "" }) },
    {
      when: "a counter falls",
      act: (r) => {
        r.counter({ name: "x_total", help: "" }).add(-1);
      },
    },
    {
      when: "a label is missing",
      act: (r) => {
        r.gauge({ name: "x", help: "", labelNames: ["a"] }).set(1);
      },
    },
    {
      when: "a label is too many",
      act: (r) => {
        r.gauge({ name: "x", help: "" }).set(1, { a: "b" });
      },
    },
    { when: "bounds fall", act: (r) => r.histogram({ name: "x", help: "", bounds: [2, 1] }) },
    { when: "a name comes twice", act: (r) => [r.gauge({ name: "x", help: "" }), r.gauge({ name: "x", help: "" })] },
  ])("$when", ({ act }) => {
    expect(() => {
      act(new MetricsRegistry());
    }).toThrow(AssertionFailed);
  });
});
