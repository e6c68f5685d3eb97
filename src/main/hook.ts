/**
 * The hook process: a sidecar of a virt-launcher pod; its flags are in hook/hook-flags.ts.
 *
 * To fit the 64 MB and the fifth of a core that KubeVirt gives a sidecar of a VM with Guaranteed QoS, it has to be started so:
 *
 *   NODE_COMPILE_CACHE=FOLDER node --max-semi-space-size=1 --max-old-space-size=24 src/main/hook.ts
 *
 * with a folder that an earlier start filled (when the image is built, by the user that it runs as: the user's id is part
 * of the cache's key). Measured in a cgroup with exactly those limits, memory charged to it and time to the socket:
 *
 *   started so, Node's binary in the page cache already        18 MB, 19 after calls    0.3 s, 70 ms of processor time
 *   started so, the binary read from disk (128 KiB read-ahead)  the rest of the 64 MB is its pages    0.4 s
 *   started so, read-ahead of 8 MiB                             likewise                              12 s
 *   without the cache: types are stripped at the start          37 MB                                 0.8 s
 *   without the cache, read-ahead of 8 MiB                      reclaims without end    no socket in five minutes
 *   started so, a hundred calls of 1 MB                         40 MB at most; killed without the limits on the heap
 *
 * The same image serves as a hook sidecar (annotation hooks.kubevirt.io/hookSidecars of the VMI, KubeVirt's feature gate
 * Sidecar) and as the sidecarImage of a network binding plugin, which needs no gate and gets no arguments.
 *
 * Ends with status 0 when virt-launcher calls Shutdown, and on SIGTERM and SIGINT. Exit status 2: the flags are wrong; 1: it
 * cannot serve (no shim, no folder for the socket), with a message that says what to do.
 */
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { FlagFailure, HOOK_USAGE, parseHookFlags, type HookFlags } from "../hook/hook-flags.ts";
import { listHookMethods } from "../hook/hook-service.ts";
import { GrpcServer } from "../hook/grpc-server.ts";
import { deliverShim, locateShim } from "../hook/shim-delivery.ts";
import { createLog } from "../telemetry/log.ts";

function readFlags(): HookFlags {
  try {
    return parseHookFlags(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof FlagFailure)) {
      throw error;
    }
    process.stderr.write(`${error.message}\n${HOOK_USAGE}\n`);
    return process.exit(2);
  }
}

const { versions, socketDirectory, shim } = readFlags();
const log = createLog({ level: "info", role: "hook", synchronous: true });

async function serve(): Promise<void> {
  if (!existsSync(shim)) {
    throw new Error(`there is no preload shim at ${shim}: build it (make build), or name it with --shim FILE`);
  }
  await deliverShim(shim, socketDirectory);
  const socketPath = join(socketDirectory, "twinrun.sock");
  await rm(socketPath, { force: true });
  const shimPath = locateShim(process.env["CONTAINER_NAME"]);
  let end = (): void => undefined;
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  const server = await GrpcServer.open(socketPath, listHookMethods({ versions, shimPath, log, onShutdown: end }), log);
  process.on("SIGTERM", end).on("SIGINT", end);
  log.info({ socketPath, shimPath, versions }, "hook listens");
  await ended;
  await server.close();
  log.info({}, "hook ends");
}

try {
  await serve();
} catch (error) {
  log.error({ error }, error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
