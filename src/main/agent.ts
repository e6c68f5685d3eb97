/**
 * `node src/main/agent.ts --config FILE [--node NAME] [--run-directory DIR] [--assignments FILE] [--quorum HOST:PORT]...
 *    [--cert FILE --key FILE --ca FILE] [--shim FILE] [--heartbeat-port PORT] [--uplink NAME]... [--metrics HOST:PORT]
 *    [--trace-directory DIR] [--cache-directory DIR] [--log-level LEVEL] [--stop-timeout-ms MS] [--engine FILE]`
 *
 * On a node of Kubernetes: `--assignments kubernetes --namespace NAMESPACE [--kubeconfig FILE [--context NAME]]`
 *    `--state-directory DIR [--quorum-service NAME] [--pod-logs-directory DIR]`, without --shim, --cert, --key and --ca.
 * Then guests come from GuestPairs and QEMU from launcher pods; the certificate is asked for and waited for.
 *
 * Everything can stand in the file (api/agent-config.ts) or in flags; a flag counts more. Ends with status 2 and every
 * mistake named when the configuration cannot be used. SIGTERM and SIGINT: engines hand over and leave, QEMU runs on, status 0.
 */
import { existsSync, mkdirSync, readFileSync, realpathSync } from "node:fs";
import { isAbsolute, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { parse } from "yaml";
import { Agent, type AgentOptions } from "../agent/agent.ts";
import { FileAssignmentSource } from "../agent/file-assignment-source.ts";
import { LocalLauncher } from "../agent/local-launcher.ts";
import { ensureNodeCertificate } from "../agent/node-certificate.ts";
import { NodePairs } from "../agent/node-pairs.ts";
import { findPodOf } from "../agent/node-pods.ts";
import { PodLauncher } from "../agent/pod-launcher.ts";
import { QuorumEndpoints } from "../agent/quorum-endpoints.ts";
import { type AgentConfig, KUBERNETES, parseAgentConfig } from "../api/agent-config.ts";
import { Cluster } from "../kube/cluster.ts";
import { Failure } from "../lib/failure.ts";
import { TlsCredentials } from "../net/tls.ts";
import { type TlsFiles } from "../protocol/assignment.ts";
import { createLog, type ProcessLog } from "../telemetry/log.ts";

const text = { type: "string" } as const;
const FLAGS = {
  config: text,
  node: text,
  "run-directory": text,
  assignments: text,
  namespace: text,
  kubeconfig: text,
  context: text,
  quorum: { type: "string", multiple: true },
  "quorum-service": text,
  "state-directory": text,
  "pod-logs-directory": text,
  cert: text,
  key: text,
  ca: text,
  shim: text,
  "heartbeat-port": text,
  uplink: { type: "string", multiple: true },
  metrics: text,
  "trace-directory": text,
  "cache-directory": text,
  "log-level": text,
  "stop-timeout-ms": text,
  engine: text,
} as const;

type Flags = ReturnType<typeof readFlags>;

function readFlags() {
  return parseArgs({ options: FLAGS }).values;
}

function readConfig(flags: Flags): AgentConfig {
  const fromFile: unknown = flags.config === undefined ? {} : parse(readFileSync(flags.config, "utf8"));
  const isObject = typeof fromFile === "object" && fromFile !== null && !Array.isArray(fromFile);
  const overrides = {
    node: flags.node,
    runDirectory: flags["run-directory"],
    assignments: flags.assignments,
    kubernetes: readKubernetes(flags, isObject ? fromFile : {}),
    quorum: flags.quorum?.map(parseEndpoint),
    quorumService: flags["quorum-service"],
    stateDirectory: flags["state-directory"],
    podLogsDirectory: flags["pod-logs-directory"],
    tls: flags.cert === undefined ? undefined : { certPath: flags.cert, keyPath: flags.key, caPath: flags.ca },
    shim: flags.shim,
    heartbeatPort: parseNumber(flags["heartbeat-port"]),
    uplinks: flags.uplink,
    metrics: flags.metrics === undefined ? undefined : parseEndpoint(flags.metrics),
    traceDirectory: flags["trace-directory"],
    cacheDirectory: flags["cache-directory"],
    logLevel: flags["log-level"],
    stopTimeoutMs: parseNumber(flags["stop-timeout-ms"]),
  };
  const given = Object.fromEntries(Object.entries(overrides).filter(([, value]) => value !== undefined));
  const config = isObject ? { ...fromFile, ...given } : fromFile;
  return parseAgentConfig(config, flags.config ?? "the command line");
}

/** Each flag alone may override its field of the file. */
function readKubernetes(flags: Flags, fromFile: { readonly kubernetes?: unknown }): unknown {
  const { namespace, kubeconfig, context } = flags;
  const given = Object.entries({ namespace, kubeconfig, context }).filter(([, value]) => value !== undefined);
  if (given.length === 0) {
    return undefined;
  }
  const { kubernetes } = fromFile;
  return { ...(typeof kubernetes === "object" ? kubernetes : {}), ...Object.fromEntries(given) };
}

/** What is no number or endpoint goes on as it is: the schema says what it should have been. */
function parseNumber(given: string | undefined): number | string | undefined {
  return given === undefined || given.trim() === "" || Number.isNaN(Number(given)) ? given : Number(given);
}

function parseEndpoint(given: string): unknown {
  const match = /^\[?(.+?)\]?:(\d+)$/.exec(given);
  return match === null ? given : { host: match[1], port: Number(match[2]) };
}

/** Where guests come from and how their QEMUs come to be, and who else wants to know of them. */
type Surroundings = Pick<AgentOptions, "source" | "launcher" | "onTransition"> & {
  /** To be called with the agent before it starts. */
  readonly attach: (agent: Agent) => void;
};

function openLocal(config: AgentConfig, runDirectory: string, log: ProcessLog): Surroundings {
  const { node, assignments, shim } = config;
  return {
    source: new FileAssignmentSource({ path: resolve(assignments), node, runDirectory }),
    launcher: new LocalLauncher({ node, runDirectory, shim: readShim(shim, log), log }),
    attach: () => undefined,
  };
}

function openCluster({ kubernetes = { namespace: "" } }: AgentConfig): Cluster {
  const { kubeconfig, context } = kubernetes;
  return kubeconfig === undefined ? Cluster.fromDefault() : Cluster.fromKubeconfig(kubeconfig, context);
}

function openKubernetes(config: AgentConfig, runDirectory: string, log: ProcessLog): Surroundings {
  const { node } = config;
  const { namespace = "" } = config.kubernetes ?? {};
  const cluster = openCluster(config);
  const pairs = new NodePairs({ cluster, namespace, node, runDirectory, log });
  return {
    source: pairs.source,
    launcher: new PodLauncher({
      ...{ node, runDirectory, log },
      findPod: (pid) => findPodOf(pid, config.podLogsDirectory),
    }),
    onTransition: (guest, transition) => {
      pairs.noteTransition(guest, transition);
    },
    attach: (agent) => {
      followQuorum(config, cluster, { agent, runDirectory, log });
      pairs.attach(agent);
      agent.onGuestChanged = (guest): void => {
        pairs.guestChanged(guest);
      };
    },
  };
}

/** Replicas outside the cluster count beside those of the Service. */
function followQuorum(
  { kubernetes, quorum, quorumService, stateDirectory }: AgentConfig,
  cluster: Cluster,
  { agent, runDirectory, log }: { readonly agent: Agent; readonly runDirectory: string; readonly log: ProcessLog },
): void {
  if (quorumService === undefined) {
    return;
  }
  const endpoints = new QuorumEndpoints(cluster, {
    namespace: kubernetes?.namespace ?? "",
    service: quorumService,
    statePath: join(stateDirectory ?? runDirectory, "quorum-endpoints.json"),
    onChanged: (found) => {
      agent.setQuorum([...found, ...quorum]);
    },
    log,
  });
  endpoints.start();
}

const LOOK_FOR_CERTIFICATE_MS = 500;

/** Those of the configuration, or the node's own, which is asked for. */
async function provideTls(config: AgentConfig, log: ProcessLog): Promise<TlsFiles> {
  const { node, kubernetes, stateDirectory = "", tls } = config;
  if (tls === undefined) {
    const { namespace = "" } = kubernetes ?? {};
    const directory = join(stateDirectory, "pki");
    return (await ensureNodeCertificate(openCluster(config), { node, namespace, directory, log })).files;
  }
  const files = { certPath: resolve(tls.certPath), keyPath: resolve(tls.keyPath), caPath: resolve(tls.caPath) };
  const missing = (): readonly string[] => Object.values(files).filter((path) => !existsSync(path));
  if (config.assignments === KUBERNETES && missing().length > 0) {
    log.info({ missing: missing() }, "waiting for this node's certificate");
    while (missing().length > 0) {
      await sleep(LOOK_FOR_CERTIFICATE_MS);
    }
  }
  return files;
}

async function start(flags: Flags, config: AgentConfig, log: ProcessLog): Promise<Agent> {
  mkdirSync(config.runDirectory, { recursive: true, mode: 0o700 });
  // One name for one directory: it marks the processes that belong to this agent.
  const runDirectory = realpathSync(config.runDirectory);
  if (config.traceDirectory !== undefined) {
    mkdirSync(config.traceDirectory, { recursive: true, mode: 0o700 });
  }
  const { node, quorum } = config;
  const tls = await provideTls(config, log);
  const credentials = await TlsCredentials.open(tls);
  const open = config.assignments === KUBERNETES ? openKubernetes : openLocal;
  const { attach, ...surroundings } = open(config, runDirectory, log);
  const agent = new Agent({
    ...surroundings,
    settings: {
      node,
      runDirectory,
      quorum,
      tls,
      traceDirectory: config.traceDirectory === undefined ? undefined : resolve(config.traceDirectory),
    },
    program: {
      path: flags.engine === undefined ? fileURLToPath(new URL("engine.ts", import.meta.url)) : resolve(flags.engine),
      cacheDirectory: config.cacheDirectory ?? join(runDirectory, ".cache"),
      logLevel: config.logLevel,
    },
    credentials,
    heartbeatPort: config.heartbeatPort,
    uplinks: config.uplinks,
    metrics: config.metrics,
    stopTimeoutMs: config.stopTimeoutMs,
    log,
  });
  attach(agent);
  await agent.start();
  return agent;
}

/** The dynamic linker passes over a shim that is missing, and then nobody holds the guest's output. Say so, and go on. */
function readShim(path: string | undefined, log: ProcessLog): string | undefined {
  if (path === undefined) {
    return undefined;
  }
  const shim = isAbsolute(path) ? path : resolve(path);
  try {
    readFileSync(shim);
    return shim;
  } catch (error) {
    log.error({ error }, `cannot read the shim ${shim}: build it with "make build"; guests start without it`);
    return undefined;
  }
}

function refuse(error: unknown): never {
  const says = error instanceof Error ? error.message : String(error);
  process.stderr.write(`twinrun agent: ${says}\n`);
  process.exit(2);
}

async function main(): Promise<void> {
  const flags = readFlags();
  const config = readConfig(flags);
  const log = createLog({ level: config.logLevel, role: "agent", node: config.node });
  const agent = await start(flags, config, log);
  log.info({ runDirectory: config.runDirectory }, "agent started");
  let isStopping = false;
  const stop = (signal: string): void => {
    if (isStopping) {
      return;
    }
    isStopping = true;
    log.info({ signal }, "agent stops; engines hand over where a standby is in sync");
    agent
      .stop()
      .catch((error: unknown) => {
        log.error({ error }, "agent did not stop in order");
      })
      .finally(() => {
        log.info({}, "agent stopped");
        log.flush();
        process.exit(0);
      });
  };
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
}

try {
  await main();
} catch (error) {
  if (error instanceof Failure || isConfigurationError(error)) {
    refuse(error);
  }
  throw error;
}

/** A flag nobody knows, a file that is missing or no YAML: the message says all, a stack would hide it. */
function isConfigurationError(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code;
  const isKnown = typeof code === "string" && /^(ERR_PARSE_ARGS|ENOENT|EACCES|EISDIR|ENOTDIR|EROFS)/.test(code);
  return isKnown || (error instanceof Error && error.name.startsWith("YAML"));
}
