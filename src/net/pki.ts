/**
 * Authorities, certificates and requests for them, made with the openssl program, because Node can read X.509 certificates but
 * not make them. What matters to the peers is only the one URI in subjectAltName (peer-identity.ts) and both extended key
 * usages.
 *
 * Keys are P-256: signing takes 30 µs, and unlike Ed25519 every tool and HSM takes them. They are made here, by Node; openssl
 * gets them as files of mode 0600 in a directory of mode 0700 that lives as long as the call. A certificate is good from ten
 * minutes before it was made, for hosts' clocks differ.
 *
 * For a lab, for tests and for an installation without Kubernetes there is a directory: `ca.crt`, `ca.key`, and for each identity
 * `SERVICE-NAME.crt`, `SERVICE-NAME.key`. Files are replaced by rename, key first, so that a reader never sees a torn file.
 */
import { execFile } from "node:child_process";
import { createPublicKey, generateKeyPair, randomBytes, X509Certificate } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { isIP } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { Failure } from "../lib/failure.ts";
import type { TlsFiles } from "../protocol/assignment.ts";
import { encodePeerUri, isPeerName, type PeerIdentity } from "./peer-identity.ts";

export type PkiFailureDetail =
  | { readonly code: "OpensslFailed"; readonly arguments: string }
  | { readonly code: "BadPeerName"; readonly name: string };
export class PkiFailure extends Failure<PkiFailureDetail> {}

/** A certificate and its private key, both PEM. */
export type PemPair = { readonly certPem: string; readonly keyPem: string };

export type LeafWish = {
  readonly identity: PeerIdentity;
  /** Host names and addresses too, for peers that are not Twinrun (an etcd, a Prometheus). */
  readonly hosts?: readonly string[];
  readonly seconds: number;
};

export type CertificateWish = Omit<LeafWish, "seconds"> & { readonly days?: number };

/** What a request asks for; whoever signs decides what it gets. */
export type RequestFacts = {
  /** By the key it is about. */
  readonly isSigned: boolean;
  /** `EC prime256v1`, `RSA 2048` and the like. */
  readonly key: string;
  /** Each in openssl's words, such as `URI:twinrun://node/a`; empty when it has none. */
  readonly subjectAltName: string;
};

const run = promisify(execFile);
const generate = promisify(generateKeyPair);
const secondsOfDay = 86_400;
const leafDays = 365;
const authorityDays = 3_650;
const backdatedSeconds = 600;
const outputBytesMax = 1024 * 1024;

/** Signs itself; its name should be used once, so that nobody takes it for another of the name. */
export async function makeAuthority(name: string, seconds: number): Promise<PemPair> {
  const keyPem = await makeKey();
  const subject = `/CN=${name}`;
  const certPem = await withDirectory(tmpdir(), async (directory) => {
    await writeFile(join(directory, "ca.key"), keyPem, { mode: 0o600 });
    await openssl(directory, ["req", "-new", "-key", "ca.key", "-subj", subject, "-out", "request"]);
    return sign(directory, { subject, seconds, extensions: AUTHORITY_EXTENSIONS, signer: ["-selfsign"] });
  });
  return { certPem, keyPem };
}

/** A name that no other authority has. */
export function nameAuthority(): string {
  return `Twinrun CA ${randomBytes(4).toString("hex")}`;
}

export async function makeCertificate(authority: PemPair, wish: LeafWish): Promise<PemPair> {
  const { requestPem, keyPem } = await makeRequest(wish.identity);
  return { certPem: await signRequest(authority, requestPem, wish), keyPem };
}

/** A new key and the request for its certificate. `workDirectory` gets nothing that stays. */
export async function makeRequest(
  identity: PeerIdentity,
  workDirectory: string = tmpdir(),
): Promise<{ readonly requestPem: string; readonly keyPem: string }> {
  assertName(identity);
  const keyPem = await makeKey();
  const requestPem = await withDirectory(workDirectory, async (directory) => {
    await writeFile(join(directory, "key"), keyPem, { mode: 0o600 });
    const subjectAltName = `subjectAltName=URI:${encodePeerUri(identity)}`;
    const subject = ["-subj", subjectOf(identity), "-addext", subjectAltName];
    await openssl(directory, ["req", "-new", "-key", "key", ...subject, "-out", "request"]);
    return readFile(join(directory, "request"), "utf8");
  });
  return { requestPem, keyPem };
}

/** Undefined when it is no request that openssl can read. */
export async function readRequest(requestPem: string): Promise<RequestFacts | undefined> {
  return withDirectory(tmpdir(), async (directory) => {
    await writeFile(join(directory, "request"), requestPem);
    try {
      const { stdout, stderr } = await openssl(directory, [
        ...["req", "-in", "request", "-noout", "-verify", "-pubkey", "-text"],
        ...["-reqopt", "no_header,no_version,no_subject,no_pubkey,no_attributes,no_sigdump"],
      ]);
      return { isSigned: /verify OK/.test(stderr), key: readKeyKind(stdout), subjectAltName: readAltName(stdout) };
    } catch (error) {
      if (error instanceof PkiFailure) {
        return undefined;
      }
      throw error;
    }
  });
}

/** Of the request only the key counts; the certificate says what the wish says. */
export async function signRequest(authority: PemPair, requestPem: string, wish: LeafWish): Promise<string> {
  const { identity, hosts = [], seconds } = wish;
  assertName(identity);
  const names = [`URI:${encodePeerUri(identity)}`, ...hosts.map(encodeHost)];
  return withDirectory(tmpdir(), async (directory) => {
    await writeFile(join(directory, "ca.crt"), authority.certPem);
    await writeFile(join(directory, "ca.key"), authority.keyPem, { mode: 0o600 });
    await writeFile(join(directory, "request"), requestPem);
    const extensions = [...LEAF_EXTENSIONS, `subjectAltName=${names.join(",")}`];
    return sign(directory, { subject: subjectOf(identity), seconds, extensions, signer: ["-cert", "ca.crt"] });
  });
}

/** Makes the CA of a directory unless it has one already. */
export async function createAuthority(directory: string, days: number = authorityDays): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const [cert, key] = [join(directory, "ca.crt"), join(directory, "ca.key")];
  if (!existsSync(key) || !existsSync(cert)) {
    await replacePair({ cert, key }, await makeAuthority(nameAuthority(), days * secondsOfDay));
  }
}

/** Issues a certificate by the CA of a directory, also over an earlier one of the same identity. */
export async function issueCertificate(directory: string, wish: CertificateWish): Promise<TlsFiles> {
  const [certPem, keyPem] = await Promise.all(
    ["ca.crt", "ca.key"].map((name) => readFile(join(directory, name), "utf8")),
  );
  const seconds = (wish.days ?? leafDays) * secondsOfDay;
  const pair = await makeCertificate({ certPem: certPem ?? "", keyPem: keyPem ?? "" }, { ...wish, seconds });
  const files = filesOf(directory, wish.identity);
  await replacePair({ cert: files.certPath, key: files.keyPath }, pair);
  return files;
}

/** Where the files of an identity are, whether or not they exist. */
export function filesOf(directory: string, { service, name }: PeerIdentity): TlsFiles {
  const base = join(directory, `${service}-${name}`);
  return { certPath: `${base}.crt`, keyPath: `${base}.key`, caPath: join(directory, "ca.crt") };
}

const AUTHORITY_EXTENSIONS = [
  "basicConstraints=critical,CA:TRUE,pathlen:0",
  "keyUsage=critical,keyCertSign,cRLSign",
  "subjectKeyIdentifier=hash",
  "authorityKeyIdentifier=keyid:always",
] as const;

const LEAF_EXTENSIONS = [
  "basicConstraints=critical,CA:FALSE",
  "keyUsage=critical,digitalSignature",
  "extendedKeyUsage=serverAuth,clientAuth",
  "subjectKeyIdentifier=hash",
  "authorityKeyIdentifier=keyid:always",
] as const;

type Signing = {
  readonly subject: string;
  readonly seconds: number;
  readonly extensions: readonly string[];
  readonly signer: readonly string[];
};

/** Signs `request` with `ca.key`. It is the `ca` command because the others cannot say from when a certificate is good. */
async function sign(directory: string, { subject, seconds, extensions, signer }: Signing): Promise<string> {
  const nowMs = Date.now();
  const dates = [
    ...["-startdate", encodeTime(nowMs - backdatedSeconds * 1_000)],
    ...["-enddate", encodeTime(nowMs + seconds * 1_000)],
  ];
  const config = [
    ...["[ca]", "default_ca=one", "[one]", "database=index", "new_certs_dir=.", "rand_serial=yes", "default_md=sha256"],
    ...["policy=any", "copy_extensions=none", "x509_extensions=extensions"],
    ...["[any]", "organizationName=optional", "commonName=optional", "[extensions]", ...extensions],
  ].join("\n");
  await Promise.all([writeFile(join(directory, "config"), config), writeFile(join(directory, "index"), "")]);
  await openssl(directory, [
    ...["ca", "-batch", "-notext", "-config", "config", "-keyfile", "ca.key", ...signer],
    ...["-in", "request", "-subj", subject, ...dates, "-out", "cert"],
  ]);
  // It ends well where a request is not signed by its own key, too, and then leaves nothing.
  const certPem = await readFile(join(directory, "cert"), "utf8").catch(() => "");
  try {
    return new X509Certificate(certPem).toString();
  } catch (cause) {
    throw failed("ca", "the request is not signed by its own key", cause);
  }
}

async function makeKey(): Promise<string> {
  const { privateKey } = await generate("ec", {
    namedCurve: "prime256v1",
    publicKeyEncoding: { type: "spki", format: "pem" },
    privateKeyEncoding: { type: "pkcs8", format: "pem" },
  });
  return privateKey;
}

async function replacePair(paths: { readonly cert: string; readonly key: string }, pair: PemPair): Promise<void> {
  await writeFile(`${paths.key}.new`, pair.keyPem, { mode: 0o600 });
  await writeFile(`${paths.cert}.new`, pair.certPem);
  await rename(`${paths.key}.new`, paths.key);
  await rename(`${paths.cert}.new`, paths.cert);
}

async function withDirectory<T>(parent: string, act: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(parent, ".issue-"));
  try {
    return await act(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

function assertName({ name }: PeerIdentity): void {
  if (!isPeerName(name)) {
    throw new PkiFailure({ code: "BadPeerName", name }, `"${name}" is no name of a node: use a-z, 0-9, '-' and '.'`);
  }
}

/** A common name has no more than 64 characters; who the certificate speaks for is in the alternative name. */
const subjectOf = ({ service, name }: PeerIdentity): string => `/O=${service}/CN=${name.slice(0, 64)}`;

const encodeHost = (host: string): string => (isIP(host) === 0 ? `DNS:${host}` : `IP:${host}`);

/** YYYYMMDDHHMMSSZ. */
const encodeTime = (ms: number): string =>
  new Date(ms)
    .toISOString()
    .replace(/[.][0-9]+Z$/, "Z")
    .replaceAll(/[-T:]/g, "");

function readKeyKind(text: string): string {
  const [pem] = /-----BEGIN PUBLIC KEY-----[^-]*-----END PUBLIC KEY-----/.exec(text) ?? [];
  try {
    const { asymmetricKeyType: type = "", asymmetricKeyDetails: details = {} } = createPublicKey(pem ?? "");
    return `${type.toUpperCase()} ${details.namedCurve ?? details.modulusLength ?? ""}`.trim();
  } catch {
    return "";
  }
}

/** What follows the heading; with two headings it cannot be told what is meant. */
function readAltName(text: string): string {
  const found = [...text.matchAll(/^ *X509v3 Subject Alternative Name: *(?:critical)? *\n *(.*)$/gm)];
  return found.length === 1 ? (found[0]?.[1] ?? "").trim() : "";
}

async function openssl(
  directory: string,
  args: readonly string[],
): Promise<{ readonly stdout: string; readonly stderr: string }> {
  try {
    return await run("openssl", [...args], { cwd: directory, timeout: 30_000, maxBuffer: outputBytesMax });
  } catch (error) {
    const reason = (error as { stderr?: string }).stderr ?? String(error);
    throw failed(args.slice(0, 2).join(" "), reason.trim(), error);
  }
}

function failed(what: string, reason: string, cause: unknown): PkiFailure {
  const says = `openssl ${what} failed: ${reason}; install openssl 1.1.1 or newer and check that the directory is writable`;
  return new PkiFailure({ code: "OpensslFailed", arguments: what }, says, { cause });
}
