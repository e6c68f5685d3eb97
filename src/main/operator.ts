/**
 * The operator process; its flags are in operator/operator-flags.ts.
 *
 * Ends cleanly on SIGTERM and SIGINT: what is being done is finished, and the lead is given back at once. Exit status 2: the
 * flags are wrong; 1: it cannot work. Any bug ends it too: it remembers nothing that is not in the
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
import { QuorumRecords } from "../operator/quorum-records.ts";
import { createLog, type ProcessLog } from "../telemetry/log.ts";

type EndpointParts = {
  readonly operator: Operator;
  readonly cluster: Cluster;
  readonly openCredentials: () => Promise<TlsCredentials>;
  readonly stop: AbortSignal;
};

async function openEndpoint(flags: OperatorFlags, parts: EndpointParts, log: ProcessLog): Promise<OperatorEndpoint> {
  const endpoint = new OperatorEndpoint(parts.operator, log);
  if (flags.health !== undefined) {
    await endpoint.listenForProbes(flags.health);
  }
  const serving = serveMetrics(flags, endpoint, parts.openCredentials);
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

/** Those of the flags, or the operator's own, when they are there; opened once. */
function provideCredentials(
  { tls, settings: { namespace } }: OperatorFlags,
  { cluster, stop }: Pick<EndpointParts, "cluster" | "stop">,
  log: ProcessLog,
): () => Promise<TlsCredentials> {
  let opening: Promise<TlsCredentials> | undefined;
  const open = async (): Promise<TlsCredentials> => {
    const ownDirectory = (): string => mkdtempSync(join(tmpdir(), "twinrun-operator-"));
    const own = { namespace, log, signal: stop };
    const files = tls ?? (await openOwnCertificate(cluster, { ...own, directory: ownDirectory() }));
    return TlsCredentials.open(files);
  };
  return () => (opening ??= open());
}

async function serveMetrics(
  { metrics }: OperatorFlags,
  endpoint: OperatorEndpoint,
  openCredentials: EndpointParts["openCredentials"],
): Promise<void> {
  if (metrics === undefined) {
    return;
  }
  const credentials = await openCredentials();
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
  const stopping = new AbortController();
  const openCredentials = provideCredentials(flags, { cluster, stop: stopping.signal }, log);
  const { quorum: endpoints, quorumService: service } = flags;
  const { namespace } = settings;
  const quorumRecords = new QuorumRecords({ cluster, namespace, service, endpoints, openCredentials });
  const operator = new Operator({ cluster, settings, usesCertManager, quorumRecords, identity, pass, log });
  const stop = (signal: string): void => {
    log.info({ signal }, "operator stops");
    stopping.abort();
  };
  process.once("SIGTERM", stop).once("SIGINT", stop);
  const endpoint = await openEndpoint(flags, { operator, cluster, openCredentials, stop: stopping.signal }, log);
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
