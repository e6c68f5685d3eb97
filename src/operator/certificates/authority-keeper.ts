/**
 * Keeps one authority: makes it once, makes its successor in time, publishes the bundle, issues what is signed by it.
 *
 * A Secret that cert-manager made is used as it is: an authority (a Certificate with isCA) signs, and is never replaced here.
 *
 * Two operators at once do no harm. The authority's Secret is created or replaced by resourceVersion only: whoever comes second
 * finds what the first one made. Certificates are applied whole, key and all: the last one counts.
 */
import { planAuthority, planLeaf, type AuthorityState, type AuthorityTiming } from "../../decide/certificate-plan.ts";
import { type Cluster } from "../../kube/cluster.ts";
import { hasKubeCode } from "../../kube/kube-failure.ts";
import { kindOf, type KubeObject } from "../../kube/kube-object.ts";
import { present } from "../../lib/assert.ts";
import { hasKey, isIssuedBy, readCertificate, readCertificates } from "../../net/certificate.ts";
import { encodePeerUri, type PeerIdentity } from "../../net/peer-identity.ts";
import { makeAuthority, makeCertificate, nameAuthority, type PemPair } from "../../net/pki.ts";
import { type Log } from "../../telemetry/log.ts";
import {
  type Authority,
  AuthorityFailure,
  type AuthorityPair,
  decodeAuthority,
  encodeAuthority,
  encodeBundle,
  encodeData,
  MANAGED_LABELS,
  pairOf,
  readText,
  type SecretObject,
} from "./authority-secret.ts";

export type AuthorityCluster = Pick<Cluster, "read" | "create" | "replace" | "apply">;

/** A Secret with ca.crt, tls.crt and tls.key, good for client and server. */
export type LeafSecret = {
  readonly secret: string;
  readonly identity: PeerIdentity;
  /** Names and addresses beside the identity, for programs that are not Twinrun's. */
  readonly hosts?: readonly string[];
};

export type CertificateTiming = AuthorityTiming & { readonly authorityMs: number };

export type AuthorityKeeperOptions = {
  readonly namespace: string;
  readonly secret: string;
  /** A ConfigMap with the bundle as ca.crt, for those who may read no Secret. */
  readonly configMap?: string | undefined;
  /** Whether nobody but cert-manager makes the authority. */
  readonly isOfCertManager?: boolean | undefined;
  readonly timing: CertificateTiming;
  readonly nowMs: () => number;
  readonly log: Log;
};

type BundleMap = KubeObject & { readonly data?: Readonly<Record<string, string>> };

const nothing: AuthorityState = {
  current: undefined,
  next: undefined,
  isNextPublished: false,
  signingSinceMs: 0,
  hasPrevious: false,
  isRotationAsked: false,
};
const fieldManager = "twinrun-operator";
const secretKind = kindOf("v1", "Secret");
const configMapKind = kindOf("v1", "ConfigMap");

export class AuthorityKeeper {
  readonly #cluster: AuthorityCluster;
  readonly #options: AuthorityKeeperOptions;

  constructor(cluster: AuthorityCluster, options: AuthorityKeeperOptions) {
    this.#cluster = cluster;
    this.#options = options;
  }

  /** Undefined when there is none yet. */
  async read(): Promise<Authority | undefined> {
    const secret = await this.#readSecret(this.#options.secret);
    return secret === undefined ? undefined : this.#decode(secret);
  }

  /** Does what is due now, in steps of which each is whole. */
  async keep(leaves: readonly LeafSecret[]): Promise<void> {
    const authority = (await this.#keepAuthority()) ?? (await this.read());
    if (authority === undefined) {
      return; // Somebody else is at it: the next time.
    }
    await this.#publish(authority);
    for (const leaf of leaves) {
      await this.#keepLeaf(leaf, authority);
    }
  }

  async #keepAuthority(): Promise<Authority | undefined> {
    const { secret: name, nowMs, timing, log } = this.#options;
    const secret = await this.#readSecret(name);
    const authority = secret === undefined ? undefined : await this.#decode(secret);
    if (secret !== undefined && isOfCertManager(secret)) {
      return authority;
    }
    const state = await this.#viewAuthority(authority);
    const action = planAuthority(state, nowMs(), timing);
    if (action === "none") {
      return authority;
    }
    if (action === "create") {
      this.#assertOwn(name);
    }
    log.info({ secret: name, action }, "the authority changes");
    if (action === "create") {
      return this.#store(await this.#makeFirst());
    }
    const changed = await this.#change(present(authority, "an authority to change"), action);
    return this.#store(changed, secret?.metadata.resourceVersion);
  }

  #assertOwn(name: string): void {
    if (this.#options.isOfCertManager === true) {
      const says = `cert-manager is to make Secret ${name}: kubectl describe certificates --namespace ${this.#options.namespace}`;
      throw new AuthorityFailure({ code: "AuthorityMissing", secret: name }, says);
    }
  }

  async #viewAuthority(authority: Authority | undefined): Promise<AuthorityState> {
    if (authority === undefined) {
      return nothing;
    }
    const { current, next, previous, signingSinceMs, isRotationAsked } = authority;
    return {
      current: current.facts,
      next: next?.facts,
      isNextPublished: next !== undefined && (await this.#isPublished(next.facts.id)),
      signingSinceMs,
      hasPrevious: previous.length > 0,
      isRotationAsked,
    };
  }

  /** One of cert-manager's knows nothing of its predecessors; what we published does. */
  async #decode(secret: SecretObject): Promise<Authority> {
    const authority = decodeAuthority(secret);
    if (!isOfCertManager(secret)) {
      return authority;
    }
    const published = readCertificates((await this.#readBundle()) ?? "");
    const previous = published.filter(
      ({ id, notAfterMs }) => id !== authority.current.facts.id && notAfterMs > this.#options.nowMs(),
    );
    return { ...authority, next: undefined, previous };
  }

  async #makeFirst(): Promise<Authority> {
    const current = await this.#makePair();
    const signingSinceMs = this.#options.nowMs();
    return { current, next: undefined, previous: [], signingSinceMs, isRotationAsked: false };
  }

  async #change(authority: Authority, action: "announceNext" | "promoteNext" | "forgetPrevious"): Promise<Authority> {
    switch (action) {
      case "announceNext":
        return { ...authority, next: await this.#makePair(), isRotationAsked: false };
      case "promoteNext": {
        const { current, next, previous } = authority;
        return {
          ...authority,
          current: present(next, "a next authority"),
          next: undefined,
          previous: [current.facts, ...previous],
          signingSinceMs: this.#options.nowMs(),
        };
      }
      case "forgetPrevious":
        return { ...authority, previous: [] };
    }
  }

  async #makePair(): Promise<AuthorityPair> {
    const seconds = Math.round(this.#options.timing.authorityMs / 1_000);
    return present(pairOf(await makeAuthority(nameAuthority(), seconds)), "a pair that belongs together");
  }

  /** Undefined when somebody else stored something first. */
  async #store(authority: Authority, resourceVersion?: string): Promise<Authority | undefined> {
    const { namespace, secret: name } = this.#options;
    const secret = encodeAuthority(authority, { name, namespace }, resourceVersion);
    try {
      const writing = { fieldManager };
      await (resourceVersion === undefined
        ? this.#cluster.create(secret, writing)
        : this.#cluster.replace(secret, writing));
      return authority;
    } catch (error) {
      if (hasKubeCode(error, "Conflict", "AlreadyExists", "NotFound")) {
        return undefined;
      }
      throw error;
    }
  }

  async #isPublished(id: string): Promise<boolean> {
    return readCertificates((await this.#readBundle()) ?? "").some((certificate) => certificate.id === id);
  }

  async #readBundle(): Promise<string | undefined> {
    const { namespace, configMap: name } = this.#options;
    if (name === undefined) {
      return undefined;
    }
    const map = await this.#cluster.read<BundleMap>({ kind: configMapKind, namespace, name });
    return map?.data?.["ca.crt"];
  }

  async #publish(authority: Authority): Promise<void> {
    const { namespace, configMap: name } = this.#options;
    const bundle = encodeBundle(authority);
    if (name === undefined || (await this.#readBundle()) === bundle) {
      return;
    }
    const metadata = { name, namespace, labels: MANAGED_LABELS };
    const map: BundleMap = { apiVersion: "v1", kind: "ConfigMap", metadata, data: { "ca.crt": bundle } };
    await this.#cluster.apply(map, fieldManager);
  }

  async #keepLeaf(leaf: LeafSecret, authority: Authority): Promise<void> {
    const { namespace, nowMs, timing, log } = this.#options;
    const held = (await this.#readSecret(leaf.secret)) ?? noSecret;
    if (isOfCertManager(held)) {
      return;
    }
    const pair = { certPem: readText(held, "tls.crt"), keyPem: readText(held, "tls.key") };
    const bundle = encodeBundle(authority);
    const state = {
      leaf: hasKey(pair.certPem, pair.keyPem) ? readCertificate(pair.certPem) : undefined,
      isOfCurrentAuthority: isIssuedBy(pair.certPem, authority.current.certPem),
      isAsWanted: held.metadata.annotations?.[wanted] === encodeWish(leaf),
      hasCurrentBundle: readText(held, "ca.crt") === bundle,
    };
    const action = planLeaf(state, nowMs());
    if (action === "none") {
      return;
    }
    log.info({ secret: leaf.secret, action }, "a certificate is renewed");
    const { identity, hosts = [] } = leaf;
    const seconds = Math.round(timing.leafMs / 1_000);
    const isKept = action === "replaceBundle";
    const made = isKept ? pair : await makeCertificate(authority.current, { identity, hosts, seconds });
    await this.#cluster.apply(encodeLeaf(leaf, { ...made, bundle, namespace }), fieldManager);
  }

  #readSecret(name: string): Promise<SecretObject | undefined> {
    return this.#cluster.read<SecretObject>({ kind: secretKind, namespace: this.#options.namespace, name });
  }
}

/** It is cert-manager that makes and renews it. */
const isOfCertManager = ({ metadata: { annotations = {} } }: SecretObject): boolean =>
  annotations["cert-manager.io/certificate-name"] !== undefined;

/** Annotation: whom a certificate was issued for. */
const wanted = "twinrun.dev/issued-for";

const noSecret: SecretObject = { apiVersion: "v1", kind: "Secret", metadata: { name: "" } };

function encodeLeaf(
  leaf: LeafSecret,
  content: PemPair & { readonly bundle: string; readonly namespace: string },
): SecretObject {
  const { bundle, certPem, keyPem, namespace } = content;
  return {
    apiVersion: "v1",
    kind: "Secret",
    metadata: {
      name: leaf.secret,
      namespace,
      labels: MANAGED_LABELS,
      annotations: { [wanted]: encodeWish(leaf) },
    },
    type: "kubernetes.io/tls",
    data: encodeData({ "ca.crt": bundle, "tls.crt": certPem, "tls.key": keyPem }),
  };
}

const encodeWish = ({ identity, hosts = [] }: LeafSecret): string => [encodePeerUri(identity), ...hosts].join(",");
