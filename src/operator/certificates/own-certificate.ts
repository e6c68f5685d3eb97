/**
 * The operator's own certificate, for every replica of it: taken from the Secret that the leading one keeps, since a pod cannot
 * mount what it is to write itself first.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Cluster } from "../../kube/cluster.ts";
import { kindOf } from "../../kube/kube-object.ts";
import { hasKey } from "../../net/certificate.ts";
import { CertificateDirectory } from "../../net/certificate-directory.ts";
import { type Log } from "../../telemetry/log.ts";
import { readText, type SecretObject } from "./authority-secret.ts";

export type OwnCertificateOptions = {
  readonly namespace: string;
  readonly secret?: string | undefined;
  /** In memory: the key is written there. */
  readonly directory: string;
  readonly log: Log;
  readonly signal: AbortSignal;
  readonly checkEveryMs?: number | undefined;
};

const firstCheckEveryMs = 1_000;
const laterCheckEveryMs = 60_000;

/** Resolves when the files are there, and keeps them like the Secret until the signal is aborted; rejects only for that. */
export async function openOwnCertificate(
  cluster: Pick<Cluster, "read">,
  options: OwnCertificateOptions,
): Promise<CertificateDirectory["files"]> {
  const directory = new CertificateDirectory(options.directory);
  const { signal, checkEveryMs = laterCheckEveryMs } = options;
  while (!(await copySecret(cluster, options, directory))) {
    await sleep(Math.min(firstCheckEveryMs, checkEveryMs), undefined, { signal });
  }
  void keepCopying(cluster, options, directory);
  return directory.files;
}

async function keepCopying(
  cluster: Pick<Cluster, "read">,
  options: OwnCertificateOptions,
  directory: CertificateDirectory,
): Promise<void> {
  const { signal, checkEveryMs = laterCheckEveryMs } = options;
  while (!signal.aborted) {
    await sleep(checkEveryMs, undefined, { signal, ref: false }).catch(() => undefined);
    await copySecret(cluster, options, directory);
  }
}

async function copySecret(
  cluster: Pick<Cluster, "read">,
  { namespace, secret: name = "twinrun-operator-tls", log, signal }: OwnCertificateOptions,
  directory: CertificateDirectory,
): Promise<boolean> {
  try {
    const ref = { kind: kindOf("v1", "Secret"), namespace, name };
    const secret = await cluster.read<SecretObject>(ref, { signal });
    if (secret === undefined) {
      return false;
    }
    return take(secret, directory);
  } catch (error) {
    if (!signal.aborted) {
      log.warn({ error, secret: name }, "the operator's own certificate cannot be read now");
    }
    return false;
  }
}

/** False when it is not a whole one. */
function take(secret: SecretObject, directory: CertificateDirectory): boolean {
  const [certPem = "", keyPem = "", caPem = ""] = ["tls.crt", "tls.key", "ca.crt"].map((key) => readText(secret, key));
  const held = { certPem, keyPem, caPem };
  if (!hasKey(certPem, keyPem) || caPem === "") {
    return false;
  }
  if (JSON.stringify(directory.read()) !== JSON.stringify(held)) {
    directory.replace(held);
  }
  return true;
}
