/**
 * Everything that can go wrong between us and the API server, one code per problem, each with the remedy in its message.
 * What the server and Node report is translated here and nowhere else; the original stays in `cause`.
 */
import { Failure } from "../lib/failure.ts";

/** A field the server found fault with. */
export type FaultyField = { readonly field: string; readonly message: string };

export type KubeFailureDetail =
  | { readonly code: "NotFound"; readonly says: string }
  /** `create` of what is there. */
  | { readonly code: "AlreadyExists"; readonly says: string }
  /** The object changed meanwhile, another manager owns the field, or a precondition does not hold. */
  | { readonly code: "Conflict"; readonly says: string }
  /** The server, a policy or a webhook does not take the object. Sending it again changes nothing. */
  | { readonly code: "Refused"; readonly says: string; readonly fields: readonly FaultyField[] }
  /** RBAC, or an admission plug-in that answers so. */
  | { readonly code: "Forbidden"; readonly says: string }
  | { readonly code: "Unauthorized"; readonly says: string }
  /** The resource version or the page is too old: list again. */
  | { readonly code: "Expired"; readonly says: string }
  | { readonly code: "TooManyRequests"; readonly says: string; readonly retryAfterMs: number }
  /** A status of 500 and more. */
  | { readonly code: "ServerTrouble"; readonly says: string; readonly status: number; readonly retryAfterMs?: number }
  /** No connection, or it ended before the answer: what was sent may have been carried out. */
  | { readonly code: "Unreachable"; readonly reason: string }
  /** The same, for want of an answer in time. */
  | { readonly code: "TimedOut"; readonly afterMs: number }
  | { readonly code: "Untrusted"; readonly reason: string }
  /** An answer that is not what an API server says. */
  | { readonly code: "BadAnswer"; readonly reason: string }
  /** The caller's signal was aborted. */
  | { readonly code: "Aborted" }
  /** There is no usable kubeconfig or service account. */
  | { readonly code: "AccessUnusable"; readonly reason: string };

export type KubeFailureCode = KubeFailureDetail["code"];

export class KubeFailure extends Failure<KubeFailureDetail> {}

/** Whether `error` is a {@link KubeFailure} with one of the codes. */
export function hasKubeCode(
  error: unknown,
  ...codes: readonly [KubeFailureCode, ...KubeFailureCode[]]
): error is KubeFailure {
  return error instanceof KubeFailure && codes.includes(error.detail.code);
}

/** The parts of metav1.Status that say something. */
type Status = {
  readonly reason?: string;
  readonly message?: string;
  readonly code?: number;
  readonly details?: {
    readonly retryAfterSeconds?: number;
    readonly causes?: readonly { readonly field?: string; readonly message?: string; readonly reason?: string }[];
  };
};

/** A refusal as it arrived: over HTTP, or as an ERROR event of a watch (then `status` is the code inside). */
export type Refusal = {
  /** `GET /api/v1/pods`. */
  readonly request: string;
  readonly status: number;
  readonly body: string;
  readonly retryAfterSeconds?: number | undefined;
};

export function parseRefusal({ request, status, body, retryAfterSeconds }: Refusal): KubeFailure {
  const told = parseStatus(body);
  const says = told.message ?? (body === "" ? `status ${status}` : body.slice(0, 1_000));
  const told429 = retryAfterSeconds ?? told.details?.retryAfterSeconds;
  const after = told429 === undefined ? undefined : told429 * 1_000;
  return failureOf({ status, says, told, after }, (remedy) => `${request}: ${says}; ${remedy}`);
}

type Read = {
  readonly status: number;
  readonly says: string;
  readonly told: Status;
  readonly after: number | undefined;
};
type Sentence = (remedy: string) => string;

function failureOf(read: Read, sentence: Sentence): KubeFailure {
  const { status, says, told, after } = read;
  switch (status) {
    case 401:
      return new KubeFailure(
        { code: "Unauthorized", says },
        sentence("the token or certificate is not valid any more: renew it, and check the clock of this machine"),
      );
    case 403:
      return new KubeFailure(
        { code: "Forbidden", says },
        sentence("grant the right by RBAC (the chart's roles have what Twinrun needs), or ask whoever made the policy"),
      );
    case 404:
      return new KubeFailure({ code: "NotFound", says }, sentence("install the resource or make the object first"));
    case 409:
      return told.reason === "AlreadyExists"
        ? new KubeFailure(
            { code: "AlreadyExists", says },
            sentence("choose another name or delete the one that is there"),
          )
        : new KubeFailure({ code: "Conflict", says }, sentence("read the object again and decide anew"));
    case 410:
      return new KubeFailure({ code: "Expired", says }, sentence("list again"));
    case 429:
      return new KubeFailure(
        { code: "TooManyRequests", says, retryAfterMs: after ?? 1_000 },
        sentence("wait; if it goes on, raise Twinrun's share in API Priority and Fairness"),
      );
    default:
      return status >= 500 ? serverTrouble(read, sentence) : refused(read, sentence);
  }
}

function serverTrouble({ status, says, told, after }: Read, sentence: Sentence): KubeFailure {
  // After etcd was restored from a backup, versions that were seen are in the future.
  if (told.details?.causes?.some(({ reason }) => reason === "ResourceVersionTooLarge") === true) {
    return new KubeFailure({ code: "Expired", says }, sentence("list again"));
  }
  return new KubeFailure(
    { code: "ServerTrouble", says, status, ...(after === undefined ? {} : { retryAfterMs: after }) },
    sentence("look at the API server, etcd and any webhook that the answer names"),
  );
}

function refused({ says, told }: Read, sentence: Sentence): KubeFailure {
  const fields = (told.details?.causes ?? []).map(({ field = "", message = "" }) => ({ field, message }));
  return new KubeFailure({ code: "Refused", says, fields }, sentence("correct what it names"));
}

function parseStatus(body: string): Status {
  try {
    const parsed: unknown = JSON.parse(body);
    return typeof parsed === "object" && parsed !== null ? parsed : {};
  } catch {
    return {}; // Proxies answer in HTML, some paths in words.
  }
}

const codeOf = (error: unknown): string => {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === "string" ? code : "";
};

const untrusted = /^(CERT_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_|INVALID_|ERR_TLS_CERT_|ERR_SSL_|EPROTO$|ERR_OSSL_)/;

/** The failure of a connection, from what Node reported. */
export function parseConnectionFailure(error: unknown, server: string): KubeFailure {
  if (error instanceof KubeFailure) {
    return error;
  }
  const [code, text] = [codeOf(error), error instanceof Error ? error.message : String(error)];
  if (untrusted.test(code)) {
    return new KubeFailure(
      { code: "Untrusted", reason: code },
      `no trust between us and the API server at ${server} (${text}): give the CA of its certificate and a client certificate or ` +
        "token that it knows, and check the clocks",
      { cause: error },
    );
  }
  return new KubeFailure(
    { code: "Unreachable", reason: code === "" ? text : code },
    `the API server at ${server} cannot be reached (${text}): check that it runs, its address and the network between`,
    { cause: error },
  );
}

export function timedOut(request: string, afterMs: number): KubeFailure {
  return new KubeFailure(
    { code: "TimedOut", afterMs },
    `${request}: nothing was heard for ${Math.round(afterMs)} ms; check the API server and the network between`,
  );
}

export function badAnswer(request: string, reason: string, cause?: unknown): KubeFailure {
  return new KubeFailure(
    { code: "BadAnswer", reason },
    `${request}: ${reason}; check that the address is that of an API server and that no proxy changes its answers`,
    { cause },
  );
}

export function aborted(request: string): KubeFailure {
  return new KubeFailure({ code: "Aborted" }, `${request}: given up by the caller`);
}

export function accessUnusable(reason: string, remedy: string, cause?: unknown): KubeFailure {
  return new KubeFailure({ code: "AccessUnusable", reason }, `${reason}: ${remedy}`, { cause });
}
