/**
 * Whether a CertificateSigningRequest for `twinrun.dev/node` is signed: only for the agent's service account, and only for the
 * node that the API server itself names as that of the pod whose token was shown. So an agent, or whoever took its token, gets
 * no certificate but that of the node it runs on anyway.
 */

export const NODE_SIGNER = "twinrun.dev/node";
/** What the API server (1.32 or newer) notes of a token that is bound to a pod. */
export const NODE_NAME_EXTRA = "authentication.kubernetes.io/node-name";
export const NODE_CERTIFICATE_USAGES = ["digital signature", "client auth", "server auth"] as const;
export const REQUEST_LENGTH_MAX = 4_096;

/** As the API server noted it. */
export type NodeRequest = {
  readonly username: string;
  /** Values of {@link NODE_NAME_EXTRA}. */
  readonly nodeNames: readonly string[];
  readonly usages: readonly string[];
  readonly requestLength: number;
  readonly expirationSeconds: number | undefined;
};

/** What stands in the request itself; src/net/pki.ts reads it. */
export type RequestContent = {
  readonly isSigned: boolean;
  readonly key: string;
  readonly subjectAltName: string;
};

export type RequestRules = { readonly agentUser: string; readonly secondsMax: number };

/** `reason` stands in the condition Denied. */
export type Refusal = { readonly tag: "refuse"; readonly reason: RefusalReason; readonly message: string };
export type RefusalReason =
  /** Not made by the agent's service account. */
  | "ForeignAccount"
  /** Made with a token that is bound to no pod. */
  | "NodeUnknown"
  /** Its usages, its size or its key are not those of a node's certificate. */
  | "NotANodeRequest"
  /** It is about another node, or about more than one name. */
  | "ForeignNode";

/** Of the requester alone: what is refused here need not be read. */
export function decideRequester(
  request: NodeRequest,
  { agentUser }: RequestRules,
): Refusal | { readonly tag: "accept"; readonly node: string } {
  const [node, ...others] = request.nodeNames;
  if (request.username !== agentUser) {
    return refuse("ForeignAccount", `${request.username} is not ${agentUser}`);
  }
  if (node === undefined || others.length > 0) {
    const says = `the token names no node: it must be that of a pod, and the API server 1.32 or newer`;
    return refuse("NodeUnknown", says);
  }
  if (request.requestLength > REQUEST_LENGTH_MAX) {
    return refuse("NotANodeRequest", `it has ${request.requestLength} bytes, where ${REQUEST_LENGTH_MAX} will do`);
  }
  const wanted: readonly string[] = NODE_CERTIFICATE_USAGES;
  if (request.usages.length !== wanted.length || !wanted.every((usage) => request.usages.includes(usage))) {
    return refuse("NotANodeRequest", `its usages are ${request.usages.join(", ")} and not ${wanted.join(", ")}`);
  }
  return { tag: "accept", node };
}

export type RequestVerdict = Refusal | { readonly tag: "sign"; readonly node: string; readonly seconds: number };

/** `content` is undefined when it could not be read; `nodeUri` is the name of the requester's node in a certificate. */
export function decideRequest(
  { request, content, nodeUri }: { request: NodeRequest; content: RequestContent | undefined; nodeUri: string },
  rules: RequestRules,
): RequestVerdict {
  const requester = decideRequester(request, rules);
  if (requester.tag === "refuse") {
    return requester;
  }
  if (content?.isSigned !== true) {
    return refuse("NotANodeRequest", "it is no PKCS #10 request that its own key has signed");
  }
  if (content.key !== "EC prime256v1") {
    return refuse("NotANodeRequest", `its key is ${content.key} and not EC prime256v1`);
  }
  if (content.subjectAltName !== `URI:${nodeUri}`) {
    const asked = content.subjectAltName.slice(0, 300);
    return refuse("ForeignNode", `it asks for "${asked}" where the token is good for "URI:${nodeUri}" alone`);
  }
  const seconds = Math.min(request.expirationSeconds ?? rules.secondsMax, rules.secondsMax);
  return { tag: "sign", node: requester.node, seconds };
}

export type RequestProgress = {
  readonly isApproved: boolean;
  /** Denied, Failed, or signed. */
  readonly isSettled: boolean;
};

export type RequestAction = "none" | "approve" | "sign" | "deny" | "fail";

/** One step. A request that somebody approved by hand is not signed for that: it fails. */
export function planRequest({ isApproved, isSettled }: RequestProgress, verdict: RequestVerdict): RequestAction {
  if (isSettled) {
    return "none";
  }
  if (verdict.tag === "refuse") {
    return isApproved ? "fail" : "deny";
  }
  return isApproved ? "sign" : "approve";
}

const refuse = (reason: RefusalReason, message: string): Refusal => ({ tag: "refuse", reason, message });
