/**
 * What runs in the pod of `kubectl twinrun import` and `export`, which has a guest's volume and nothing else.
 *
 *   node src/main/volume.ts hold                         keeps the pod until nobody has used the volume for a while
 *   node src/main/volume.ts serve read|write PATH        speaks src/protocol/volume-frames.ts on standard input and output
 *
 * The pod does not listen: who may `exec` into it may talk to it, and nobody else.
 */
import { stat, utimes, writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { serveVolume } from "../volume/volume-server.ts";

/** Touched at every question; in the pod's own memory. */
const USED_PATH = "/tmp/used";
/** As long as a person may take to start the command again, with what was sent still at hand. */
const UNUSED_MS_MAX = 15 * 60_000;

async function hold(): Promise<void> {
  process.once("SIGTERM", () => {
    process.exit(0);
  });
  await writeFile(USED_PATH, "");
  for (;;) {
    const { mtimeMs } = await stat(USED_PATH);
    const leftMs = mtimeMs + UNUSED_MS_MAX - Date.now();
    if (leftMs <= 0) {
      return;
    }
    await sleep(Math.max(1_000, leftMs));
  }
}

async function serve(access: string, path: string): Promise<boolean> {
  let touchedAtMs = 0;
  return serveVolume({
    ...{ path, access: access === "read" ? "read" : "write" },
    ...{ input: process.stdin, output: process.stdout },
    onQuestion: () => {
      const nowMs = Date.now();
      if (nowMs - touchedAtMs > 10_000) {
        touchedAtMs = nowMs;
        void utimes(USED_PATH, new Date(), new Date()).catch(() => undefined);
      }
    },
  });
}

const [verb, access = "", path = ""] = process.argv.slice(2);
if (verb === "hold") {
  await hold();
} else if (verb === "serve" && ["read", "write"].includes(access) && path !== "") {
  process.exitCode = (await serve(access, path)) ? 0 : 1;
} else {
  process.stderr.write("usage: volume.ts hold | serve read|write PATH\n");
  process.exitCode = 2;
}
