/**
 * Mutual TLS 1.3 between Twinrun's processes.
 *
 * Both sides show a certificate of the one CA they are given, no public CA counts. Who the peer is, is the URI in its
 * certificate (peer-identity.ts). Resumption is off: a handshake costs a few milliseconds once, and so each connection
 * has proved its certificate itself. Certificates are read again when their files change, for new connections; a pair of
 * files that does not fit together (half replaced) leaves the old pair in use until it does.
 *
 * AES-128-GCM first, because every server CPU of the last ten years has AES-NI and at most ChaCha20 is as fast; measured
 * with 256 KiB writes between two namespaces of one 2-core machine: AES-128 970–1300 MiB/s, AES-256 1040, ChaCha20 930,
 * plain TCP 1700. The rest of the cost is Node's 16 KiB per read event, not the cipher.
 */
import { readFileSync } from "node:fs";
import { stat } from "node:fs/promises";
import { X509Certificate } from "node:crypto";
import { createSecureContext, type SecureContext, type TLSSocket } from "node:tls";
import { NetFailure } from "./net-failure.ts";
import { encodePeerUri, parsePeerIdentity, type PeerIdentity, type PeerService } from "./peer-identity.ts";
import type { TlsFiles } from "../protocol/assignment.ts";

const CIPHERS = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
const RELOAD_CHECK_MS = 5_000;

type Material = { readonly cert: Buffer; readonly key: Buffer; readonly ca: Buffer };
/** What `tls.createServer` and `setSecureContext` take. */
export type TlsMaterial = Material & {
  readonly minVersion: "TLSv1.3";
  readonly maxVersion: "TLSv1.3";
  readonly ciphers: string;
};
/** What `tls.connect` takes. */
export type ConnectTlsOptions = { readonly secureContext: SecureContext; readonly rejectUnauthorized: true };

type Loaded = {
  readonly material: TlsMaterial;
  readonly context: SecureContext;
  readonly identity: PeerIdentity;
  readonly expiresAtMs: number;
  readonly isOfOurAuthority: boolean;
};

export class TlsCredentials {
  readonly files: TlsFiles;
  #loaded: Loaded;
  #stamp: string;
  readonly #timer: NodeJS.Timeout;
  readonly #listeners = new Set<(failure: NetFailure | undefined) => void>();

  private constructor(files: TlsFiles, loaded: Loaded, stamp: string, checkEveryMs: number) {
    this.files = files;
    this.#loaded = loaded;
    this.#stamp = stamp;
    this.#timer = setInterval(() => void this.reload(), checkEveryMs);
    this.#timer.unref();
  }

  /** Reads and checks the files now; throws a {@link NetFailure} that names the file at fault. */
  static async open(files: TlsFiles, checkEveryMs = RELOAD_CHECK_MS): Promise<TlsCredentials> {
    const stamp = await readStamp(files);
    return new TlsCredentials(files, load(readMaterial(files), files), stamp, checkEveryMs);
  }

  get identity(): PeerIdentity {
    return this.#loaded.identity;
  }

  /** For a metric and a condition; an expired certificate is not refused here but by every peer. */
  get expiresAtMs(): number {
    return this.#loaded.expiresAtMs;
  }

  /** False for a certificate that every peer with our CA refuses; they cannot tell us so before the connection ends. */
  get isOfOurAuthority(): boolean {
    return this.#loaded.isOfOurAuthority;
  }

  options(): ConnectTlsOptions {
    return { secureContext: this.#loaded.context, rejectUnauthorized: true };
  }

  material(): TlsMaterial {
    return this.#loaded.material;
  }

  /** Called after the files changed: without a failure when the new ones are in use, with one when they cannot be. */
  onReloaded(listener: (failure: NetFailure | undefined) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Looks at the files now. Runs by itself every few seconds. */
  async reload(): Promise<void> {
    const stamp = await readStamp(this.files);
    if (stamp === this.#stamp) {
      return;
    }
    let failure: NetFailure | undefined;
    try {
      this.#loaded = load(readMaterial(this.files), this.files);
    } catch (error) {
      failure = unusable(this.files.certPath, "changed but cannot be used; the earlier one stays in use", error);
    }
    this.#stamp = stamp;
    for (const listener of this.#listeners) {
      listener(failure);
    }
  }

  close(): void {
    clearInterval(this.#timer);
    this.#listeners.clear();
  }
}

/** Who the other end of an authorized socket is. Throws when its certificate speaks for nobody. */
export function readPeerIdentity(socket: TLSSocket): PeerIdentity {
  // Not getPeerX509Certificate: on a client's socket Node 24 takes the certificate away with it.
  const identity = parsePeerIdentity(socket.getPeerCertificate().subjectaltname);
  if (identity === undefined || !socket.authorized) {
    throw wrongCertificate("a twinrun:// identity", "a certificate without one");
  }
  return identity;
}

/** Figures are for monitors, and for whoever has the certificate of the one that answers: they tell of guests. */
export function mayReadFigures(socket: TLSSocket, own: PeerIdentity): boolean {
  const peer = parsePeerIdentity(socket.getPeerCertificate().subjectaltname);
  return (
    socket.authorized && (peer?.service === "monitor" || (peer?.service === own.service && peer.name === own.name))
  );
}

/** Throws a {@link NetFailure} unless the peer is of that service and, when `name` is given, that very one. */
export function assertPeer(peer: PeerIdentity | undefined, service: PeerService, name?: string): void {
  if (peer?.service !== service || (name !== undefined && peer.name !== name)) {
    const expected = name === undefined ? `any twinrun://${service}/` : encodePeerUri({ service, name });
    throw wrongCertificate(
      expected,
      peer === undefined ? "a certificate without a twinrun:// identity" : encodePeerUri(peer),
    );
  }
}

function wrongCertificate(expected: string, presented: string): NetFailure {
  return new NetFailure(
    { code: "WrongCertificate", expected, presented },
    `expected ${expected}, but the peer shows ${presented}: the address leads to another machine, or its certificate was issued for another name`,
  );
}

function load({ cert, key, ca }: Material, files: TlsFiles): Loaded {
  const material = { cert, key, ca, minVersion: "TLSv1.3", maxVersion: "TLSv1.3", ciphers: CIPHERS } as const;
  let certificate: X509Certificate;
  let context: SecureContext;
  try {
    certificate = new X509Certificate(cert);
    context = createSecureContext(material);
  } catch (error) {
    throw unusable(files.certPath, `cannot be used with ${files.keyPath} and ${files.caPath}`, error);
  }
  const identity = parsePeerIdentity(certificate.subjectAltName);
  if (identity === undefined) {
    throw wrongCertificate("exactly one twinrun:// URI in our own certificate's subjectAltName", "none");
  }
  const isOfOurAuthority = hasIssuer(certificate, [...parseCertificates(cert), ...parseCertificates(ca)]);
  return { material, context, identity, expiresAtMs: Date.parse(certificate.validTo), isOfOurAuthority };
}

function parseCertificates(pem: Buffer): X509Certificate[] {
  const blocks = pem.toString("latin1").match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
  return blocks.map((block) => new X509Certificate(block));
}

/** By its next issuer alone: one of the chain in its own file is taken at its word. */
const hasIssuer = (certificate: X509Certificate, candidates: readonly X509Certificate[]): boolean =>
  candidates.some((candidate) => certificate.checkIssued(candidate) && certificate.verify(candidate.publicKey));

function readMaterial(files: TlsFiles): Material {
  const read = (path: string): Buffer => {
    try {
      return readFileSync(path);
    } catch (error) {
      throw unusable(path, "cannot be read", error);
    }
  };
  return { cert: read(files.certPath), key: read(files.keyPath), ca: read(files.caPath) };
}

/** Changes whenever one of the files does, also through a replaced symbolic link as Kubernetes does it. */
async function readStamp(files: TlsFiles): Promise<string> {
  const stamps = [files.certPath, files.keyPath, files.caPath].map(async (path) => {
    const entry = await stat(path, { bigint: true }).catch(() => undefined);
    return entry === undefined ? "missing" : `${String(entry.ino)}.${String(entry.mtimeNs)}.${String(entry.size)}`;
  });
  return (await Promise.all(stamps)).join(" ");
}

function unusable(path: string, problem: string, cause: unknown): NetFailure {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new NetFailure(
    { code: "CertificateUnusable", path },
    `${path} ${problem} (${reason}): certificate, key and CA must be PEM files that belong together and be readable by this user`,
    { cause },
  );
}
