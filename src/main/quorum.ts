/**
 * The quorum process; its flags are in quorum/quorum-flags.ts.
 *
 * Ends cleanly on SIGTERM and SIGINT: what was asked is answered first. Exit status 2: the flags are wrong; 1: it cannot
 * serve (every address is taken, the store is locked, a certificate is missing), with a message that says what to do. Any bug
 * ends the process too: it keeps no state but the store's, and starting it anew is the best it can do.
 */
import { Failure } from "../lib/failure.ts";
import { findAccess } from "../kube/access.ts";
import { LeaseClient } from "../kube/lease-client.ts";
import { TlsCredentials } from "../net/tls.ts";
import { EtcdStore } from "../quorum/etcd-store.ts";
import { FileStore } from "../quorum/file-store.ts";
import { HealthFiles } from "../quorum/health-files.ts";
import { LeaseStore } from "../quorum/lease-store.ts";
import {
  FlagFailure,
  parseQuorumFlags,
  QUORUM_USAGE,
  type QuorumFlags,
  type StoreChoice,
} from "../quorum/quorum-flags.ts";
import { QuorumServer } from "../quorum/quorum-server.ts";
import type { RecordStore } from "../quorum/record-store.ts";
import { createLog, type ProcessLog } from "../telemetry/log.ts";

const ANSWERS_LEAVE_MS = 200;

async function openStore(choice: StoreChoice, log: ProcessLog): Promise<RecordStore> {
  switch (choice.tag) {
    case "etcd":
      return new EtcdStore(choice.options);
    case "lease":
      return openLeaseStore(choice.namespace);
    case "file":
      return await FileStore.open(choice.directory, {
        onBroken: (failure) => {
          setTimeout(() => end(failure, 1, log), ANSWERS_LEAVE_MS);
        },
      });
  }
}

/** As whom KUBECONFIG says, or as the pod's service account. */
async function openLeaseStore(wanted: string | undefined): Promise<RecordStore> {
  const source = findAccess();
  const namespace = wanted ?? (await source.read()).namespace;
  if (namespace === undefined) {
    throw new FlagFailure({ code: "BadFlag", flag: "namespace" }, "--namespace is missing: name that of the Leases");
  }
  return new LeaseStore({ leases: new LeaseClient(source, namespace) });
}

async function serve(flags: QuorumFlags, log: ProcessLog): Promise<void> {
  const credentials = await TlsCredentials.open(flags.tls);
  const store = await openStore(flags.store, log);
  const server = await QuorumServer.open({ ...flags, credentials, store, log });
  const health =
    flags.healthDirectory === undefined
      ? undefined
      : HealthFiles.open(flags.healthDirectory, () => server.isStoreHealthy());
  let stopping = false;
  const stop = (signal: string): void => {
    if (stopping) {
      return;
    }
    stopping = true;
    log.info({ signal }, "quorum stops");
    health?.close();
    void server
      .close()
      .then(() => store.close())
      .then(() => {
        credentials.close();
        log.flush();
        process.exit(0);
      });
  };
  process.on("SIGTERM", stop).on("SIGINT", stop);
}

function end(error: unknown, status: number, log?: ProcessLog): never {
  log?.error({ error }, error instanceof Failure ? error.message : "the quorum ends because of a bug");
  log?.flush();
  if (log === undefined) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  }
  process.exit(status);
}

function readFlags(): QuorumFlags {
  try {
    return parseQuorumFlags(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof FlagFailure)) {
      throw error;
    }
    process.stderr.write(`${error.message}\n${QUORUM_USAGE}\n`);
    return process.exit(2);
  }
}

const flags = readFlags();
const log = createLog({ level: flags.logLevel, role: "quorum" });
process.on("uncaughtException", (error) => end(error, 1, log));
try {
  await serve(flags, log);
} catch (error) {
  end(error, 1, log);
}
