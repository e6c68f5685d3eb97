/** Tells what happens as it happens: headlines for what is done, a line now and then for how it stands. */
import { type GuestView } from "../lab/cluster.ts";
import { type PairHost } from "../lab/placement.ts";

const isTerminal = process.stdout.isTTY;
const style = (code: string, text: string): string => (isTerminal ? `\u001b[${code}m${text}\u001b[0m` : text);

export class Narrator {
  readonly #startedAtMs = Date.now();

  /** An act of the story. */
  announce(text: string): void {
    this.#print(`\n${this.#clock()} ${style("1;36", `== ${text}`)}`);
  }

  say(text: string): void {
    this.#print(`${this.#clock()} ${text}`);
  }

  warn(text: string): void {
    this.#print(`${this.#clock()} ${style("1;31", text)}`);
  }

  table(title: string, rows: readonly (readonly [string, string])[]): void {
    const width = Math.max(...rows.map(([name]) => name.length));
    this.#print(`\n${style("1", title)}`);
    for (const [name, value] of rows) {
      this.#print(`  ${name.padEnd(width)}  ${value}`);
    }
  }

  #clock(): string {
    return style("2", `[${((Date.now() - this.#startedAtMs) / 1000).toFixed(1).padStart(6)} s]`);
  }

  #print(line: string): void {
    process.stdout.write(`${line}\n`);
  }
}

export const hostLabel = (host: PairHost | undefined): string => (host === undefined ? "nobody" : host.toUpperCase());

/** One guest, one line: who runs it, how far the copy is, what protection costs at the moment. */
export function describeGuest(view: GuestView): string {
  const { name, primary, report } = view;
  const head = `${name.padEnd(8)} on ${hostLabel(primary)}`;
  if (report === undefined) {
    return `${head}: no primary`;
  }
  if (report.state !== "protected") {
    const copied = report.state === "alone" ? "" : `, ${report.syncPercent.toFixed(0)} % copied`;
    return `${head}: ${report.state}, term ${report.term}${copied}`;
  }
  const { checkpoint, addedLatency, lagMs, epoch, term } = report;
  const pause = checkpoint.phases.pause;
  return (
    `${head}: protected, term ${term}, epoch ${epoch}, ${checkpoint.perSecond.toFixed(0)} epochs/s, ` +
    `pause ${(pause?.p50Ms ?? 0).toFixed(1)}/${(pause?.p99Ms ?? 0).toFixed(1)} ms, ${checkpoint.dirtyPagesP50} pages, ` +
    `added ${addedLatency.p50Ms.toFixed(1)}/${addedLatency.p99Ms.toFixed(1)} ms, lag ${lagMs === null ? "-" : `${lagMs.toFixed(0)} ms`}`
  );
}
