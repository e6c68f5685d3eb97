/**
 * The certificate of this node: its key is made here and never leaves, the operator signs it on request, and it is renewed at two
 * thirds of its life, some nodes a little earlier than others.
 *
 * A certificate that is on the disk and still good is used at once: an agent starts without API server and operator. One that has
 * ended is used too while there is no other, for a peer that refuses it says so, and the guests run on.
 *
 * The bundle of authorities is looked at every few minutes. Its first one signs; whoever has a certificate of another one asks
 * for a new one, which is how a rotation of the authority reaches the nodes.
 */
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { planLeaf } from "../decide/certificate-plan.ts";
import { NODE_CERTIFICATE_USAGES, NODE_SIGNER } from "../decide/certificate-request.ts";
import { type Cluster } from "../kube/cluster.ts";
import { kindOf, type KubeObject } from "../kube/kube-object.ts";
import { Failure } from "../lib/failure.ts";
import { hasKey, isIssuedBy, readCertificate, readCertificates } from "../net/certificate.ts";
import { CertificateDirectory, type HeldCertificate } from "../net/certificate-directory.ts";
import { encodePeerUri, type PeerIdentity } from "../net/peer-identity.ts";
import { makeRequest } from "../net/pki.ts";
import { type TlsFiles } from "../protocol/assignment.ts";
import { type Log } from "../telemetry/log.ts";

export type NodeCertificateOptions = {
  readonly node: string;
  /** Kept over the agent's life and the node's boots; only root may read it. */
  readonly directory: string;
  /** Of the installation. */
  readonly namespace: string;
  readonly log: Log;
  readonly signal?: AbortSignal | undefined;
  readonly timing?: Partial<NodeCertificateTiming> | undefined;
  readonly nowMs?: (() => number) | undefined;
};

export type NodeCertificateTiming = {
  /** Between two looks at the bundle and the certificate. */
  readonly checkEveryMs: number;
  readonly pollEveryMs: number;
  /** So long a request may wait; then another one is made. */
  readonly requestMs: number;
  readonly retryMsMin: number;
  readonly retryMsMax: number;
};

export type NodeCertificate = {
  /** For TlsCredentials, which takes up what changes. */
  readonly files: TlsFiles;
  /** Looks now; runs by itself every few minutes. Rejects with the reason why something could not be done. */
  check(): Promise<void>;
  stop(): Promise<void>;
};

export type NodeCertificateCluster = Pick<Cluster, "read" | "create">;

export class NodeCertificateFailure extends Failure<
  | { readonly code: "NoAuthority" }
  | { readonly code: "RequestDenied"; readonly request: string }
  | { readonly code: "RequestUnanswered"; readonly request: string }
  | { readonly code: "CertificateWrong"; readonly request: string }
> {}

type BundleMap = KubeObject & { readonly data?: Readonly<Record<string, string>> };
type SigningRequest = KubeObject & {
  readonly spec: object;
  readonly status?: {
    readonly certificate?: string;
    readonly conditions?: readonly { readonly type: string; readonly reason?: string; readonly message?: string }[];
  };
};

const bundleName = "twinrun-ca";
const configMapKind = kindOf("v1", "ConfigMap");
const requestKind = kindOf("certificates.k8s.io/v1", "CertificateSigningRequest");
const defaultTiming: NodeCertificateTiming = {
  checkEveryMs: 300_000,
  pollEveryMs: 1_000,
  requestMs: 300_000,
  retryMsMin: 2_000,
  retryMsMax: 300_000,
};

/** Resolves as soon as there is a certificate to be used; rejects only when the signal is aborted. */
export async function ensureNodeCertificate(
  cluster: NodeCertificateCluster,
  options: NodeCertificateOptions,
): Promise<NodeCertificate> {
  const keeper = new NodeCertificateKeeper(cluster, options);
  await keeper.start();
  return keeper;
}

class NodeCertificateKeeper implements NodeCertificate {
  readonly #cluster: NodeCertificateCluster;
  readonly #options: NodeCertificateOptions;
  readonly #timing: NodeCertificateTiming;
  readonly #identity: PeerIdentity;
  readonly #directory: CertificateDirectory;
  readonly #stopping = new AbortController();
  readonly #signal: AbortSignal;
  readonly #nowMs: () => number;
  /** How much earlier than others this node renews. */
  readonly #early = Math.random();
  #checking: Promise<void> = Promise.resolve();
  #running: Promise<void> | undefined;

  constructor(cluster: NodeCertificateCluster, options: NodeCertificateOptions) {
    this.#cluster = cluster;
    this.#options = options;
    this.#timing = { ...defaultTiming, ...options.timing };
    this.#identity = { service: "node", name: options.node };
    this.#directory = new CertificateDirectory(options.directory);
    this.#nowMs = options.nowMs ?? Date.now;
    const { signal } = this.#stopping;
    this.#signal = options.signal === undefined ? signal : AbortSignal.any([options.signal, signal]);
  }

  get files(): TlsFiles {
    return this.#directory.files;
  }

  async start(): Promise<void> {
    let isFirst = true;
    const { retryMsMin, retryMsMax } = this.#timing;
    for (let retryMs = retryMsMin; this.#readHeld() === undefined; retryMs = Math.min(retryMs * 2, retryMsMax)) {
      this.#signal.throwIfAborted();
      if (!isFirst) {
        await sleep(retryMs * (0.5 + 0.5 * Math.random()), undefined, { signal: this.#signal });
      }
      isFirst = false;
      await this.#tryCheck();
    }
    this.#running = this.#repeat();
  }

  check(): Promise<void> {
    const next = this.#checking.catch(() => undefined).then(() => this.#check());
    this.#checking = next;
    return next;
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#checking.catch(() => undefined);
    await this.#running;
  }

  async #repeat(): Promise<void> {
    const { checkEveryMs, retryMsMin } = this.#timing;
    let failedCount = 0;
    for (let pauseMs = 0; !this.#signal.aborted;) {
      await sleep(pauseMs, undefined, { signal: this.#signal, ref: false }).catch(() => undefined);
      failedCount = (await this.#tryCheck()) ? 0 : failedCount + 1;
      const waitMs = failedCount === 0 ? checkEveryMs : Math.min(retryMsMin * 2 ** failedCount, checkEveryMs);
      pauseMs = waitMs * (0.75 + 0.5 * Math.random());
    }
  }

  async #tryCheck(): Promise<boolean> {
    if (this.#signal.aborted) {
      return false;
    }
    try {
      await this.check();
      return true;
    } catch (error) {
      if (!(this.#signal as { readonly aborted: boolean }).aborted) {
        this.#options.log.warn({ error }, "this node's certificate cannot be looked after now");
      }
      return false;
    }
  }

  async #check(): Promise<void> {
    const bundle = await this.#readBundle();
    const held = this.#readHeld();
    const state = {
      leaf: held === undefined ? undefined : readCertificate(held.certPem),
      isOfCurrentAuthority: held !== undefined && isIssuedBy(held.certPem, bundle),
      isAsWanted: true,
      hasCurrentBundle: held?.caPem === bundle,
    };
    const action = planLeaf(state, this.#nowMs(), this.#early);
    // Before a certificate of a new authority, whoever shows one of it must be known.
    if (held !== undefined && !state.hasCurrentBundle) {
      this.#directory.replace({ ...held, caPem: bundle });
      this.#options.log.info({}, "other authorities are trusted from now on");
    }
    if (action === "issue") {
      const { certPem, keyPem } = await this.#request(bundle);
      this.#directory.replace({ certPem, keyPem, caPem: bundle });
      this.#options.log.info({ until: readCertificate(certPem)?.notAfterMs }, "this node has a new certificate");
    }
  }

  /** What is there and speaks for this node, ended or not. */
  #readHeld(): HeldCertificate | undefined {
    const held = this.#directory.read();
    const identity = held === undefined ? undefined : readCertificate(held.certPem)?.identity;
    const isOurs = identity !== undefined && encodePeerUri(identity) === encodePeerUri(this.#identity);
    return held !== undefined && isOurs && hasKey(held.certPem, held.keyPem) ? held : undefined;
  }

  /** Nothing but certificates, in their order. */
  async #readBundle(): Promise<string> {
    const { namespace } = this.#options;
    const map = await this.#cluster.read<BundleMap>(
      { kind: configMapKind, namespace, name: bundleName },
      { signal: this.#signal },
    );
    const certificates = readCertificates(map?.data?.["ca.crt"] ?? "");
    if (certificates.length === 0) {
      const says = `ConfigMap ${namespace}/${bundleName} has no certificate in ca.crt yet: the operator writes it; look whether it runs`;
      throw new NodeCertificateFailure({ code: "NoAuthority" }, says);
    }
    return certificates.map(({ pem }) => `${pem.trim()}\n`).join("");
  }

  async #request(bundle: string): Promise<{ readonly certPem: string; readonly keyPem: string }> {
    const { node } = this.#options;
    const { requestPem, keyPem } = await makeRequest(this.#identity, this.#directory.path);
    const name = `twinrun-node-${node.slice(0, 200)}-${randomBytes(4).toString("hex")}`;
    const request: SigningRequest = {
      apiVersion: requestKind.apiVersion,
      kind: requestKind.kind,
      metadata: { name, labels: { "app.kubernetes.io/part-of": "twinrun" } },
      spec: {
        signerName: NODE_SIGNER,
        usages: NODE_CERTIFICATE_USAGES,
        request: Buffer.from(requestPem).toString("base64"),
      },
    };
    await this.#cluster.create(request, { signal: this.#signal });
    const certPem = await this.#awaitCertificate(name);
    const isGood = readCertificates(bundle).some(({ pem }) => isIssuedBy(certPem, pem)) && hasKey(certPem, keyPem);
    if (!isGood) {
      const says = `what was signed for ${name} is not for our key, or of an authority that is not in ConfigMap ${bundleName}; trying again`;
      throw new NodeCertificateFailure({ code: "CertificateWrong", request: name }, says);
    }
    return { certPem, keyPem };
  }

  async #awaitCertificate(name: string): Promise<string> {
    const { pollEveryMs, requestMs } = this.#timing;
    const deadlineMs = performance.now() + requestMs;
    while (performance.now() < deadlineMs) {
      const request = await this.#cluster.read<SigningRequest>({ kind: requestKind, name }, { signal: this.#signal });
      const { certificate = "", conditions = [] } = request?.status ?? {};
      if (certificate !== "") {
        return Buffer.from(certificate, "base64").toString("utf8");
      }
      const refusal = conditions.find(({ type }) => type === "Denied" || type === "Failed");
      if (refusal !== undefined) {
        const says = `${name} was refused (${refusal.reason ?? ""}): ${refusal.message ?? ""}`;
        throw new NodeCertificateFailure({ code: "RequestDenied", request: name }, says);
      }
      await sleep(pollEveryMs, undefined, { signal: this.#signal });
    }
    const says = `${name} was not answered within ${requestMs} ms: look whether the operator runs`;
    throw new NodeCertificateFailure({ code: "RequestUnanswered", request: name }, says);
  }
}
