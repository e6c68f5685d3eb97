/**
 * The operator process; its flags are in operator/operator-flags.ts.
 *
 * Ends cleanly on SIGTERM and SIGINT: what is being done is finished, and the lead is given back at once. Exit status 2: the
 * flags are wrong; 1: it cannot work, or another one leads now. Any bug ends it too: it remembers nothing that is not in the
 * cluster, and starting it anew is the best it can do.
 */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Cluster } from "../kube/cluster.ts";
import { Failure } from "../lib/failure.ts";
import { mayReadFigures, TlsCredentials } from "../net/tls.ts";
import { openOwnCertificate } from "../operator/certificates/own-certificate.ts";
import { OperatorEndpoint } from "../operator/operator-endpoint.ts";
import { openFailPoints } from "../operator/operator-fail-points.ts";
import { FlagFailure, OPERATOR_USAGE, type OperatorFlags, parseOperatorFlags } from "../operator/operator-flags.ts";
import { Operator } from "../operator/operator.ts";
import { createLog, type ProcessLog } from "../telemetry/log.ts";

type EndpointParts = { readonly operator: Operator; readonly cluster: Cluster; readonly stop: AbortSignal };

async function openEndpoint(flags: OperatorFlags, parts: EndpointParts, log: ProcessLog): Promise<OperatorEndpoint> {
  const endpoint = new OperatorEndpoint(parts.operator, log);
  if (flags.health !== undefined) {
    await endpoint.listenForProbes(flags.health);
  }
  const serving = serveMetrics(flags, endpoint, parts, log);
  if (flags.tls !== undefined) {
    await serving;
    return endpoint;
  }
  // The certificate is issued by whoever leads, perhaps by ourselves a moment later.
  serving.catch((error: unknown) => {
    if (!parts.stop.aborted) {
      log.error({ error }, "metrics are not served");
    }
  });
  return endpoint;
}

async function serveMetrics(
  { metrics, tls, settings: { namespace } }: OperatorFlags,
  endpoint: OperatorEndpoint,
  { cluster, stop }: EndpointParts,
  log: ProcessLog,
): Promise<void> {
  if (metrics === undefined) {
    return;
  }
  const ownDirectory = (): string => mkdtempSync(join(tmpdir(), "twinrun-operator-"));
  const files = tls ?? (await openOwnCertificate(cluster, { namespace, directory: ownDirectory(), log, signal: stop }));
  const credentials = await TlsCredentials.open(files);
  await endpoint.listenForMetrics(metrics, credentials.material(), {
    isReader: (socket) => mayReadFigures(socket, credentials.identity),
    renewed: (use) => {
      credentials.onReloaded((failure) => {
        if (failure === undefined) {
          use(credentials.material());
        }
      });
    },
  });
}

async function work(flags: OperatorFlags, log: ProcessLog): Promise<number> {
  const cluster = flags.kubeconfig === undefined ? Cluster.fromDefault() : Cluster.fromKubeconfig(flags.kubeconfig);
  const pass = openFailPoints(process.env, () => {
    process.kill(process.pid, "SIGKILL");
  });
  const { settings, identity } = flags;
  const usesCertManager = flags.authority === "cert-manager";
  const operator = new Operator({ cluster, settings, usesCertManager, identity, pass, log });
  const stopping = new AbortController();
  const stop = (signal: string): void => {
    log.info({ signal }, "operator stops");
    stopping.abort();
  };
  process.once("SIGTERM", stop).once("SIGINT", stop);
  const endpoint = await openEndpoint(flags, { operator, cluster, stop: stopping.signal }, log);
  const end = await operator.run(stopping.signal);
  await endpoint.close();
  cluster.close();
  return end === "stopped" ? 0 : 1;
}

function end(error: unknown, log: ProcessLog): never {
  log.error({ error }, error instanceof Failure ? error.message : "the operator ends because of a bug");
  log.flush();
  process.exit(1);
}

function readFlags(): OperatorFlags {
  try {
    return parseOperatorFlags(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof FlagFailure)) {
      throw error;
    }
    process.stderr.write(`${error.message}\n${OPERATOR_USAGE}\n`);
    return process.exit(2);
  }
}

const flags = readFlags();
const log = createLog({ level: flags.logLevel, role: "operator" });
process.on("uncaughtException", (error) => end(error, log));
try {
  const status = await work(flags, log);
  log.info({ status }, "operator stopped");
  log.flush();
  process.exit(status);
} catch (error) {
  end(error, log);
}
