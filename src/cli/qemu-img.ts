/**
 * Runs qemu-img of this machine on a file that is not trusted: told what the file is, kept from opening any other, and within
 * limits of processor time and memory.
 */
import { spawn } from "node:child_process";
import { ImageFailure } from "../image/image-failure.ts";
import { type ImageFormat } from "../image/image-header.ts";
import { CliFailure } from "./cli-failure.ts";

/** Where an image is: a file, or a part of one (a disk within an OVA). */
export type ImagePlace = { readonly path: string; readonly part?: { readonly offset: number; readonly bytes: number } };

export type QemuImgRun = {
  readonly args: readonly string[];
  readonly cpuSeconds: number;
  readonly memoryBytes: number;
  readonly signal: AbortSignal;
  /** What it prints, as it does. */
  readonly onOutput?: (text: string) => void;
};

/** To look at an image, as others allow it too (OpenStack, CDI). */
export const LOOK_LIMITS = { cpuSeconds: 60, memoryBytes: 2 ** 30 } as const;
/** To read all of one. */
export const READ_MEMORY_BYTES = 2 * 2 ** 30;
export const readSecondsMax = (bytes: number): number => 120 + Math.ceil(bytes / 2 ** 30) * 60;

const OUTPUT_LENGTH_MAX = 1024 * 1024;
const NOT_FOUND = 127;

/** For any place that takes a file name. The format is not guessed, and a backing file is not opened whatever is said of one. */
export function encodeNode({ path, part }: ImagePlace, format: ImageFormat): string {
  const file = { driver: "file", filename: path };
  const place = part === undefined ? file : { driver: "raw", offset: part.offset, size: part.bytes, file };
  return `json:${JSON.stringify({ driver: format, file: place, ...(format === "raw" ? {} : { backing: null }) })}`;
}

/**
 * The shell sets the limits, for Node cannot; where a system does not know one of them (macOS has none for memory) the others
 * count. What qemu-img says goes to its output; it is given no environment that could name files.
 */
export function runQemuImg({ args, cpuSeconds, memoryBytes, signal, onOutput }: QemuImgRun): Promise<string> {
  const script = 'ulimit -t "$1"; ulimit -v "$2" 2>/dev/null; ulimit -c 0; shift 2; exec qemu-img "$@"';
  const limits = [String(cpuSeconds), String(Math.ceil(memoryBytes / 1024))];
  const child = spawn("sh", ["-c", script, "sh", ...limits, ...args], {
    ...{ stdio: ["ignore", "pipe", "pipe"], signal },
    env: { PATH: process.env["PATH"] ?? "/usr/bin:/bin", LC_ALL: "C" },
  });
  let [output, errors] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    onOutput?.(text);
    output = onOutput === undefined ? (output + text).slice(0, OUTPUT_LENGTH_MAX) : "";
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors = (errors + text).slice(0, 4_096);
  });
  return new Promise((resolve, reject) => {
    child.once("error", (cause) => {
      reject(signal.aborted ? cause : needsQemuImg(cause));
    });
    child.once("close", (status, killedBy) => {
      if (status === 0) {
        resolve(output);
      } else {
        reject(status === NOT_FOUND ? needsQemuImg() : explainEnd(args, { status, killedBy, errors }));
      }
    });
  });
}

const needsQemuImg = (cause?: unknown): CliFailure =>
  new CliFailure(
    "Failed",
    "images other than raw need qemu-img on this machine, and it is not in the PATH: install qemu-utils (Debian), qemu-img " +
      "(Fedora) or qemu (Homebrew)",
    { cause },
  );

type End = { readonly status: number | null; readonly killedBy: NodeJS.Signals | null; readonly errors: string };

function explainEnd([verb = ""]: readonly string[], { status, killedBy, errors }: End): ImageFailure {
  if (killedBy !== null) {
    return new ImageFailure("TooLarge", `qemu-img ${verb} needed more time or memory than it is given (${killedBy})`);
  }
  const said = errors
    .trim()
    .split("\n")
    .at(-1)
    ?.replaceAll(/json:\{[^']*\}/g, "the image");
  return new ImageFailure("Damaged", `qemu-img ${verb} does not take it (${said === "" ? `status ${status}` : said})`);
}

/** Of output that is JSON. */
export async function askQemuImg(run: QemuImgRun): Promise<unknown> {
  const text = await runQemuImg(run);
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new ImageFailure("Damaged", "qemu-img says of it what is no JSON", { cause });
  }
}

/** What `convert -p` prints: `    (12.34/100%)`. */
export function parseProgress(text: string): number | undefined {
  const found = [...text.matchAll(/\((\d+\.\d+)\/100%\)/g)].at(-1)?.[1];
  return found === undefined ? undefined : Number(found);
}

/** As much as somebody wants to read where every change is a line. */
export const roundPercent = (percent: number): number => 5 * Math.floor(percent / 5);
