/**
 * A registry of counters, gauges, histograms and summaries, written out in the Prometheus text format 0.0.4.
 *
 * Contract: a name is registered once, with one type and one list of label names; names and labels that Prometheus would
 * refuse are an assertion here, not a broken scrape there. `write` prints families in the order of registration, and the
 * series of a family in the order in which they first got a value. Units are base units (seconds, bytes), and are the last
 * word of the name before `_total`.
 *
 * Format: `# HELP name text` (backslash and newline escaped), `# TYPE name type`, then `name{label="value"} number`
 * (backslash, newline and quote escaped). Infinity is `+Inf`, not-a-number is `NaN`.
 */
import { assert } from "../lib/assert.ts";

export type Labels = Readonly<Record<string, string>>;
type MetricType = "counter" | "gauge" | "histogram" | "summary";

export type MetricOptions = {
  readonly name: string;
  readonly help: string;
  readonly labelNames?: readonly string[];
};

export const METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8";

const METRIC_NAME = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;
const LABEL_NAME = /^[a-zA-Z_][a-zA-Z0-9_]*$/;
const RESERVED_LABELS: Readonly<Record<MetricType, string>> = {
  counter: "",
  gauge: "",
  histogram: "le",
  summary: "quantile",
};

/** One family: a name, its labels, and a value per combination of label values. */
abstract class Family<Value> {
  readonly name: string;
  readonly #help: string;
  readonly #type: MetricType;
  readonly #labelNames: readonly string[];
  readonly #series = new Map<string, { readonly labels: Labels; value: Value }>();

  constructor(type: MetricType, options: MetricOptions) {
    this.#labelNames = options.labelNames ?? [];
    assert(METRIC_NAME.test(options.name), `metric name ${options.name} is not one Prometheus takes`);
    for (const label of this.#labelNames) {
      assert(LABEL_NAME.test(label) && !label.startsWith("__"), `label name ${label} is not one Prometheus takes`);
      assert(label !== RESERVED_LABELS[type], `label name ${label} is reserved in a ${type}`);
    }
    this.name = options.name;
    this.#help = options.help;
    this.#type = type;
  }

  /** Forgets every series whose labels carry these values: its subject is gone. */
  remove(labels: Labels): void {
    for (const [key, series] of this.#series) {
      if (Object.entries(labels).every(([name, value]) => series.labels[name] === value)) {
        this.#series.delete(key);
      }
    }
  }

  write(): string {
    const lines = [`# HELP ${this.name} ${escapeHelp(this.#help)}`, `# TYPE ${this.name} ${this.#type}`];
    for (const { labels, value } of this.#series.values()) {
      lines.push(...this.writeSeries(labels, value));
    }
    return `${lines.join("\n")}\n`;
  }

  protected abstract writeSeries(labels: Labels, value: Value): string[];

  protected read(labels: Labels): Value | undefined {
    return this.#series.get(this.#keyOf(labels))?.value;
  }

  protected put(labels: Labels, value: Value): void {
    const key = this.#keyOf(labels);
    const series = this.#series.get(key);
    if (series === undefined) {
      this.#series.set(key, { labels: { ...labels }, value });
    } else {
      series.value = value;
    }
  }

  #keyOf(labels: Labels): string {
    assert(
      Object.keys(labels).length === this.#labelNames.length,
      `${this.name} has the labels ${this.#labelNames.join(", ")}, not ${Object.keys(labels).join(", ")}`,
    );
    const values = this.#labelNames.map((name) => {
      const value = labels[name];
      assert(value !== undefined, `${this.name} lacks a value for its label ${name}`);
      return value;
    });
    return JSON.stringify(values);
  }
}

export class Counter extends Family<number> {
  constructor(options: MetricOptions) {
    assert(options.name.endsWith("_total"), `a counter's name ends in _total, not ${options.name}`);
    super("counter", options);
  }

  add(amount: number, labels: Labels = {}): void {
    assert(amount >= 0, `${this.name} only grows`);
    this.put(labels, (this.read(labels) ?? 0) + amount);
  }

  protected writeSeries(labels: Labels, value: number): string[] {
    return [writeSample(this.name, labels, value)];
  }
}

export class Gauge extends Family<number> {
  constructor(options: MetricOptions) {
    super("gauge", options);
  }

  set(value: number, labels: Labels = {}): void {
    this.put(labels, value);
  }

  protected writeSeries(labels: Labels, value: number): string[] {
    return [writeSample(this.name, labels, value)];
  }
}

type HistogramValue = { readonly counts: readonly number[]; readonly sum: number; readonly count: number };

export class Histogram extends Family<HistogramValue> {
  readonly #bounds: readonly number[];

  /** `bounds` are the upper, inclusive limits of the buckets, rising, without +Inf. */
  constructor(options: MetricOptions & { readonly bounds: readonly number[] }) {
    super("histogram", options);
    const rising = options.bounds.every((bound, index) => index === 0 || bound > (options.bounds[index - 1] ?? bound));
    assert(options.bounds.length > 0 && rising, `${options.name} needs rising bounds`);
    this.#bounds = options.bounds;
  }

  observe(value: number, labels: Labels = {}): void {
    const before = this.read(labels) ?? { counts: this.#bounds.map(() => 0), sum: 0, count: 0 };
    this.put(labels, {
      counts: before.counts.map((count, index) => (value <= (this.#bounds[index] ?? Infinity) ? count + 1 : count)),
      sum: before.sum + value,
      count: before.count + 1,
    });
  }

  protected writeSeries(labels: Labels, value: HistogramValue): string[] {
    const buckets = this.#bounds.map((bound, index) =>
      writeSample(`${this.name}_bucket`, { ...labels, le: writeNumber(bound) }, value.counts[index] ?? 0),
    );
    return [
      ...buckets,
      writeSample(`${this.name}_bucket`, { ...labels, le: "+Inf" }, value.count),
      writeSample(`${this.name}_sum`, labels, value.sum),
      writeSample(`${this.name}_count`, labels, value.count),
    ];
  }
}

export type SummaryValue = {
  readonly quantiles: Readonly<Record<string, number>>;
  readonly sum: number;
  readonly count: number;
};

/** Quantiles that somebody else worked out, such as an engine over its last checkpoints. */
export class Summary extends Family<SummaryValue> {
  constructor(options: MetricOptions) {
    super("summary", options);
  }

  set(value: SummaryValue, labels: Labels = {}): void {
    this.put(labels, value);
  }

  protected writeSeries(labels: Labels, value: SummaryValue): string[] {
    return [
      ...Object.entries(value.quantiles).map(([quantile, at]) => writeSample(this.name, { ...labels, quantile }, at)),
      writeSample(`${this.name}_sum`, labels, value.sum),
      writeSample(`${this.name}_count`, labels, value.count),
    ];
  }
}

export class MetricsRegistry {
  readonly #families: { readonly name: string; write(): string; remove(labels: Labels): void }[] = [];

  counter(options: MetricOptions): Counter {
    return this.#add(new Counter(options));
  }

  gauge(options: MetricOptions): Gauge {
    return this.#add(new Gauge(options));
  }

  histogram(options: MetricOptions & { readonly bounds: readonly number[] }): Histogram {
    return this.#add(new Histogram(options));
  }

  summary(options: MetricOptions): Summary {
    return this.#add(new Summary(options));
  }

  write(): string {
    return this.#families.map((family) => family.write()).join("");
  }

  /** Forgets the series with these label values in every family. */
  remove(labels: Labels): void {
    for (const family of this.#families) {
      family.remove(labels);
    }
  }

  #add<F extends { readonly name: string; write(): string; remove(labels: Labels): void }>(family: F): F {
    assert(!this.#families.some(({ name }) => name === family.name), `metric ${family.name} is registered twice`);
    this.#families.push(family);
    return family;
  }
}

function writeSample(name: string, labels: Labels, value: number): string {
  const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escapeLabel(text)}"`);
  return `${name}${pairs.length === 0 ? "" : `{${pairs.join(",")}}`} ${writeNumber(value)}`;
}

function writeNumber(value: number): string {
  if (Number.isFinite(value)) {
    return String(value);
  }
  return Number.isNaN(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf";
}

function escapeHelp(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
}

function escapeLabel(text: string): string {
  return escapeHelp(text).replaceAll('"', '\\"');
}
