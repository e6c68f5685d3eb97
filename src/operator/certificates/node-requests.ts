/**
 * Approves and signs what agents ask for their nodes, by CertificateSigningRequests of the signer `twinrun.dev/node`, and
 * denies whatever else asks that signer. The rules are in decide/certificate-request.ts.
 */
import {
  decideRequest,
  decideRequester,
  NODE_NAME_EXTRA,
  NODE_SIGNER,
  planRequest,
  type NodeRequest,
  type RequestProgress,
  type RequestRules,
  type RequestVerdict,
} from "../../decide/certificate-request.ts";
import { type Cluster } from "../../kube/cluster.ts";
import { hasKubeCode } from "../../kube/kube-failure.ts";
import { kindOf, type KubeObject } from "../../kube/kube-object.ts";
import { Reflector } from "../../kube/reflector.ts";
import { encodePeerUri } from "../../net/peer-identity.ts";
import { type PemPair, readRequest, signRequest } from "../../net/pki.ts";
import { type Log } from "../../telemetry/log.ts";

export type SigningRequest = KubeObject & {
  readonly spec: {
    readonly username?: string;
    readonly extra?: Readonly<Record<string, readonly string[]>>;
    readonly usages?: readonly string[];
    /** Base64 of PEM. */
    readonly request: string;
    readonly expirationSeconds?: number;
  };
  readonly status?: {
    readonly certificate?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
  };
};

export type RequestCluster = Pick<Cluster, "listPages" | "watch" | "putSubresource">;

export type NodeRequestOptions = {
  readonly rules: RequestRules;
  /** Undefined while there is none. */
  readonly readAuthority: () => Promise<PemPair | undefined>;
  readonly log: Log;
};

const requestKind = kindOf("certificates.k8s.io/v1", "CertificateSigningRequest");
const againAfterMs = 5_000;

export class NodeRequests {
  readonly #cluster: RequestCluster;
  readonly #options: NodeRequestOptions;
  readonly #reflector: Reflector<SigningRequest>;
  readonly #waiting = new Set<string>();
  #running: Promise<void> | undefined;
  #again: NodeJS.Timeout | undefined;
  #isStopped = false;

  constructor(cluster: RequestCluster, options: NodeRequestOptions) {
    this.#cluster = cluster;
    this.#options = options;
    this.#reflector = new Reflector<SigningRequest>({
      cluster,
      kind: requestKind,
      scope: { fieldSelector: `spec.signerName=${NODE_SIGNER}` },
      log: options.log,
    });
    this.#reflector.onChange(({ key, after }) => {
      if (after !== undefined) {
        this.#waiting.add(key);
        this.#work();
      }
    });
  }

  start(): void {
    this.#reflector.start();
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    clearTimeout(this.#again);
    await this.#reflector.stop();
    await this.#running;
  }

  /** One after the other: there is nothing to gain, and a flood of requests must not be one of openssl processes. */
  #work(): void {
    this.#running ??= this.#settleWaiting().finally(() => {
      this.#running = undefined;
    });
  }

  async #settleWaiting(): Promise<void> {
    await Promise.resolve(); // So that `#running` stands before this ends.
    const failed = new Set<string>();
    for (const key of this.#waiting) {
      if (this.#isStopped) {
        return;
      }
      this.#waiting.delete(key);
      const request = this.#reflector.get(key);
      if (request !== undefined && !(await this.#settle(request))) {
        failed.add(key);
      }
    }
    if (failed.size > 0) {
      this.#again = setTimeout(() => {
        failed.forEach((key) => this.#waiting.add(key));
        this.#work();
      }, againAfterMs);
    }
  }

  /** False: try again later. After a step the change of the request brings the next one. */
  async #settle(request: SigningRequest): Promise<boolean> {
    const { log } = this.#options;
    const { name } = request.metadata;
    try {
      return await this.#step(request);
    } catch (error) {
      if (!hasKubeCode(error, "Conflict", "NotFound")) {
        log.warn({ error, request: name }, "a node's certificate request waits");
        return false;
      }
      return true; // It has changed or is gone, and we hear of that.
    }
  }

  async #step(request: SigningRequest): Promise<boolean> {
    const progress = readProgress(request);
    if (progress.isSettled) {
      return true;
    }
    const { rules, log } = this.#options;
    const { verdict, requestPem } = await judge(request, rules);
    const action = planRequest(progress, verdict);
    const why = explain(verdict);
    log.info({ request: request.metadata.name, by: request.spec.username, action, reason: why.reason }, why.message);
    switch (action) {
      case "approve":
        await this.#put(request, "approval", { type: "Approved", ...why });
        return true;
      case "deny":
        await this.#put(request, "approval", { type: "Denied", ...why });
        return true;
      case "fail":
        await this.#put(request, "status", { type: "Failed", ...why });
        return true;
      case "sign":
        return verdict.tag === "sign" && (await this.#sign(request, requestPem, verdict));
      case "none":
        return true;
    }
  }

  async #sign(
    request: SigningRequest,
    requestPem: string,
    { node, seconds }: Extract<RequestVerdict, { tag: "sign" }>,
  ): Promise<boolean> {
    const authority = await this.#options.readAuthority();
    if (authority === undefined) {
      return false;
    }
    const certificate = await signRequest(authority, requestPem, {
      identity: { service: "node", name: node },
      seconds,
    });
    const status = { ...request.status, certificate: Buffer.from(certificate).toString("base64") };
    await this.#cluster.putSubresource(refOf(request), "status", { ...request, status });
    return true;
  }

  async #put(
    request: SigningRequest,
    subresource: "approval" | "status",
    condition: { readonly type: string; readonly reason: string; readonly message: string },
  ): Promise<void> {
    const now = new Date().toISOString();
    const added = { ...condition, status: "True", lastUpdateTime: now, lastTransitionTime: now };
    const conditions = [...(request.status?.conditions ?? []), added];
    const body = { ...request, status: { ...request.status, conditions } };
    await this.#cluster.putSubresource(refOf(request), subresource, body);
  }
}

function readProgress({ status = {} }: SigningRequest): RequestProgress {
  const isTrue = (type: string): boolean =>
    status.conditions?.some((condition) => condition.type === type && condition.status === "True") ?? false;
  return {
    isApproved: isTrue("Approved"),
    isSettled: isTrue("Denied") || isTrue("Failed") || (status.certificate ?? "") !== "",
  };
}

const explain = (verdict: RequestVerdict): { readonly reason: string; readonly message: string } =>
  verdict.tag === "refuse"
    ? { reason: verdict.reason, message: verdict.message }
    : { reason: "AgentOfNode", message: `the agent of node ${verdict.node} asks for it` };

async function judge(
  request: SigningRequest,
  rules: RequestRules,
): Promise<{ readonly verdict: RequestVerdict; readonly requestPem: string }> {
  const { spec } = request;
  const requestPem = Buffer.from(spec.request, "base64").toString("utf8");
  const asked: NodeRequest = {
    username: spec.username ?? "",
    nodeNames: spec.extra?.[NODE_NAME_EXTRA] ?? [],
    usages: spec.usages ?? [],
    requestLength: requestPem.length,
    expirationSeconds: spec.expirationSeconds,
  };
  const requester = decideRequester(asked, rules);
  if (requester.tag === "refuse") {
    return { verdict: requester, requestPem };
  }
  const content = await readRequest(requestPem);
  const nodeUri = encodePeerUri({ service: "node", name: requester.node });
  return { verdict: decideRequest({ request: asked, content, nodeUri }, rules), requestPem };
}

const refOf = ({ metadata: { name } }: SigningRequest) => ({ kind: requestKind, name });
