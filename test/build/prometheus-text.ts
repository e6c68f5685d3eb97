/**
 * A strict reader of the Prometheus text format 0.0.4, to check what we expose: stricter than Prometheus itself, so that
 * anything it accepts any scraper accepts.
 *
 * It refuses: a sample without HELP and TYPE before it, a family that comes twice or is torn apart, a series that comes
 * twice, wrong escapes, histogram buckets that fall or lack +Inf, and a last line without its newline.
 */
export type PrometheusSample = {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
};

export type PrometheusFamily = {
  readonly name: string;
  readonly type: string;
  readonly help: string;
  readonly samples: PrometheusSample[];
};

const SUFFIXES: Readonly<Record<string, readonly string[]>> = {
  counter: [""],
  gauge: [""],
  histogram: ["_bucket", "_sum", "_count"],
  summary: ["", "_sum", "_count"],
};

export function parsePrometheusText(text: string): ReadonlyMap<string, PrometheusFamily> {
  if (!text.endsWith("\n")) {
    throw new Error("the last line has no newline");
  }
  const reader = new Reader();
  for (const line of text.slice(0, -1).split("\n")) {
    reader.take(line);
  }
  for (const family of reader.families.values()) {
    checkHistogram(family);
  }
  return reader.families;
}

class Reader {
  readonly families = new Map<string, PrometheusFamily>();
  readonly #seenSeries = new Set<string>();
  #current: PrometheusFamily | undefined;
  #help: { readonly name: string; readonly text: string } | undefined;

  take(line: string): void {
    const helpLine = /^# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) ((?:[^\\]|\\\\|\\n)*)$/.exec(line);
    const typeLine = /^# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge|histogram|summary)$/.exec(line);
    if (helpLine !== null) {
      this.#help = { name: helpLine[1] ?? "", text: helpLine[2] ?? "" };
    } else if (typeLine !== null) {
      this.#openFamily(typeLine[1] ?? "", typeLine[2] ?? "");
    } else {
      this.#takeSample(line);
    }
  }

  #openFamily(name: string, type: string): void {
    if (this.#help?.name !== name) {
      throw new Error(`TYPE of ${name} without its HELP before it`);
    }
    if (this.families.has(name)) {
      throw new Error(`family ${name} comes twice`);
    }
    this.#current = { name, type, help: this.#help.text, samples: [] };
    this.families.set(name, this.#current);
  }

  #takeSample(line: string): void {
    const sample = parseSample(line);
    const family = this.#current;
    if (family === undefined || !sample.name.startsWith(family.name)) {
      throw new Error(`sample outside its family: ${line}`);
    }
    if (SUFFIXES[family.type]?.includes(sample.name.slice(family.name.length)) !== true) {
      throw new Error(`a ${family.type} has no sample ${sample.name}`);
    }
    const key = sample.name + JSON.stringify(Object.entries(sample.labels).sort());
    if (this.#seenSeries.has(key)) {
      throw new Error(`series comes twice: ${line}`);
    }
    this.#seenSeries.add(key);
    family.samples.push(sample);
  }
}

function parseSample(line: string): PrometheusSample {
  const match = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/s.exec(line);
  if (match === null) {
    throw new Error(`not a sample: ${line}`);
  }
  const [, name = "", labelText = "", valueText = ""] = match;
  return { name, labels: parseLabels(labelText, line), value: parseNumber(valueText, line) };
}

function parseLabels(text: string, line: string): Record<string, string> {
  const labels: Record<string, string> = {};
  const pair = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,|$)/y;
  while (pair.lastIndex < text.length) {
    const at = pair.lastIndex;
    const match = pair.exec(text);
    if (match === null) {
      throw new Error(`bad labels at ${at}: ${line}`);
    }
    const [, name = "", escaped = "", separator] = match;
    if (name in labels) {
      throw new Error(`label ${name} comes twice: ${line}`);
    }
    if (separator === "," && pair.lastIndex === text.length) {
      throw new Error(`comma at the end of the labels: ${line}`);
    }
    labels[name] = escaped.replaceAll(/\\(.)/g, (_, letter: string) => (letter === "n" ? "\n" : letter));
  }
  return labels;
}

function parseNumber(text: string, line: string): number {
  if (text === "+Inf" || text === "-Inf") {
    return text === "+Inf" ? Infinity : -Infinity;
  }
  if (text === "NaN") {
    return NaN;
  }
  if (!/^-?\d+(\.\d+)?(e[+-]?\d+)?$/.test(text)) {
    throw new Error(`not a number: ${line}`);
  }
  return Number(text);
}

function checkHistogram(family: PrometheusFamily): void {
  if (family.type !== "histogram") {
    return;
  }
  const byLabels = new Map<string, PrometheusSample[]>();
  for (const sample of family.samples.filter(({ name }) => name.endsWith("_bucket"))) {
    const key = JSON.stringify(Object.entries(sample.labels).filter(([label]) => label !== "le"));
    byLabels.set(key, [...(byLabels.get(key) ?? []), sample]);
  }
  for (const buckets of byLabels.values()) {
    const falls = buckets.some(({ value }, index) => value < (buckets[index - 1]?.value ?? 0));
    if (falls || buckets.at(-1)?.labels["le"] !== "+Inf") {
      throw new Error(`buckets of ${family.name} fall or lack +Inf`);
    }
  }
}
