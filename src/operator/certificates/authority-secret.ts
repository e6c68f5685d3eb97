/**
 * An authority as its Secret keeps it:
 *
 *   tls.crt, tls.key     the authority that signs
 *   next.crt, next.key   the one that will, while it is being announced
 *   ca.crt               the bundle to trust: the signing one first, then the next, then those that signed before
 *
 * annotation twinrun.dev/signing-since: when tls.crt began to sign; twinrun.dev/rotate-authority: a person wants another one
 * (with any value; taken away when that is announced).
 */
import { Failure } from "../../lib/failure.ts";
import { type CertificateFacts, hasKey, readCertificate, readCertificates } from "../../net/certificate.ts";
import { type PemPair } from "../../net/pki.ts";
import { type KubeObject } from "../../kube/kube-object.ts";

export type SecretObject = KubeObject & {
  readonly type?: string;
  /** Base64. */
  readonly data?: Readonly<Record<string, string>>;
};

export type AuthorityPair = PemPair & { readonly facts: CertificateFacts };

export type Authority = {
  readonly current: AuthorityPair;
  readonly next: AuthorityPair | undefined;
  /** Trusted, and not signing any more. */
  readonly previous: readonly CertificateFacts[];
  readonly signingSinceMs: number;
  readonly isRotationAsked: boolean;
};

export class AuthorityFailure extends Failure<{
  readonly code: "AuthorityDamaged" | "AuthorityMissing";
  readonly secret: string;
}> {}

const signingSince = "twinrun.dev/signing-since";
const rotate = "twinrun.dev/rotate-authority";
export const MANAGED_LABELS = { "app.kubernetes.io/part-of": "twinrun", "app.kubernetes.io/component": "certificates" };

/** Throws {@link AuthorityFailure}: what is damaged is not replaced, for every peer trusts what was there. */
export function decodeAuthority(secret: SecretObject): Authority {
  const { annotations = {} } = secret.metadata;
  const current = decodePair(secret, "tls");
  if (current === undefined) {
    throw damaged(secret, "it has no tls.crt with its tls.key");
  }
  const next = secret.data?.["next.crt"] === undefined ? undefined : decodePair(secret, "next");
  const known = [current.facts.id, next?.facts.id];
  const since = Date.parse(annotations[signingSince] ?? "");
  return {
    current,
    next,
    previous: readCertificates(readText(secret, "ca.crt")).filter(({ id }) => !known.includes(id)),
    signingSinceMs: Number.isNaN(since) ? current.facts.notBeforeMs : since,
    isRotationAsked: annotations[rotate] !== undefined,
  };
}

export type SecretPlace = { readonly name: string; readonly namespace: string };

export function encodeAuthority(authority: Authority, place: SecretPlace, resourceVersion?: string): SecretObject {
  const { current, next } = authority;
  const data = {
    "tls.crt": current.certPem,
    "tls.key": current.keyPem,
    ...(next === undefined ? {} : { "next.crt": next.certPem, "next.key": next.keyPem }),
    "ca.crt": encodeBundle(authority),
  };
  const annotations = {
    [signingSince]: new Date(authority.signingSinceMs).toISOString(),
    ...(authority.isRotationAsked ? { [rotate]: "asked" } : {}),
  };
  const version = resourceVersion === undefined ? {} : { resourceVersion };
  return {
    apiVersion: "v1",
    kind: "Secret",
    metadata: { ...place, ...version, labels: MANAGED_LABELS, annotations },
    type: "Opaque",
    data: encodeData(data),
  };
}

export function encodeBundle({ current, next, previous }: Authority): string {
  const nextPem = next === undefined ? [] : [next.facts.pem];
  return [current.facts.pem, ...nextPem, ...previous.map(({ pem }) => pem)].map((pem) => `${pem.trim()}\n`).join("");
}

/** Undefined when certificate and key do not belong together. */
export function pairOf({ certPem, keyPem }: PemPair): AuthorityPair | undefined {
  const facts = readCertificate(certPem);
  return facts === undefined || !hasKey(certPem, keyPem) ? undefined : { certPem, keyPem, facts };
}

function decodePair(secret: SecretObject, name: "tls" | "next"): AuthorityPair | undefined {
  return pairOf({ certPem: readText(secret, `${name}.crt`), keyPem: readText(secret, `${name}.key`) });
}

export function readText({ data }: SecretObject, key: string): string {
  return Buffer.from(data?.[key] ?? "", "base64").toString("utf8");
}

export function encodeData(texts: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(texts).map(([key, text]) => [key, Buffer.from(text).toString("base64")]));
}

function damaged({ metadata: { namespace = "", name } }: SecretObject, what: string): AuthorityFailure {
  return new AuthorityFailure(
    { code: "AuthorityDamaged", secret: `${namespace}/${name}` },
    `Secret ${namespace}/${name} cannot be used: ${what}; restore it from a backup, or delete it to have another authority made, which ends every connection that is not renewed`,
  );
}
