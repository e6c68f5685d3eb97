/**
 * A CA and certificates for a lab, for tests and for an installation without a CA of its own, made with the openssl
 * program, because Node can read X.509 certificates but not make them. With cert-manager this file is not needed; what
 * matters is only the one URI in subjectAltName (peer-identity.ts) and both extended key usages.
 *
 * Layout of the directory: `ca.crt`, `ca.key`, and for each identity `SERVICE-NAME.crt`, `SERVICE-NAME.key`. Keys are
 * P-256: signing takes 30 µs, and unlike Ed25519 every tool and HSM takes them. Files are replaced by rename, key first, so
 * that a reader never sees a torn file.
 */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { chmod, mkdir, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { isIP } from "node:net";
import { Failure } from "../lib/failure.ts";
import { encodePeerUri, isPeerName, type PeerIdentity } from "./peer-identity.ts";
import type { TlsFiles } from "../protocol/assignment.ts";

export type PkiFailureDetail =
  | { readonly code: "OpensslFailed"; readonly arguments: string }
  | { readonly code: "BadPeerName"; readonly name: string };
export class PkiFailure extends Failure<PkiFailureDetail> {}

export type CertificateWish = {
  readonly identity: PeerIdentity;
  readonly days?: number;
  /** Host names and addresses too, for peers that are not Twinrun (an etcd). */
  readonly hosts?: readonly string[];
};

const run = promisify(execFile);
const DAYS = 365;

/** Makes the CA unless the directory has one already. */
export async function createAuthority(directory: string, days = 3650): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const key = join(directory, "ca.key");
  const cert = join(directory, "ca.crt");
  if (existsSync(key) && existsSync(cert)) {
    return;
  }
  await openssl(["req", "-x509", ...NEW_KEY, "-keyout", `${key}.new`, "-out", `${cert}.new`, "-days", String(days),
    "-subj", "/CN=Twinrun CA", "-addext", "basicConstraints=critical,CA:TRUE,pathlen:0",
    "-addext", "keyUsage=critical,keyCertSign,cRLSign"]); // prettier-ignore
  await chmod(`${key}.new`, 0o600);
  await rename(`${key}.new`, key);
  await rename(`${cert}.new`, cert);
}

/** Issues a certificate, also over an earlier one of the same identity. */
export async function issueCertificate(directory: string, wish: CertificateWish): Promise<TlsFiles> {
  const { service, name } = wish.identity;
  if (!isPeerName(name)) {
    throw new PkiFailure({ code: "BadPeerName", name }, `"${name}" is no name of a node: use a-z, 0-9, '-' and '.'`);
  }
  const files = filesOf(directory, wish.identity);
  const work = await mkdtemp(join(directory, ".issue-"));
  try {
    const subjectAltName = [`URI:${encodePeerUri(wish.identity)}`, ...(wish.hosts ?? []).map(hostEntry)].join(",");
    const extensions = join(work, "extensions");
    await writeFile(
      extensions,
      `basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=${subjectAltName}\n`,
    );
    const [key, request, cert] = [join(work, "key"), join(work, "request"), join(work, "cert")] as const;
    await openssl([
      "req",
      "-new",
      ...NEW_KEY,
      "-keyout",
      key,
      "-out",
      request,
      "-subj",
      `/O=${service}/CN=${name.slice(0, 64)}`,
    ]);
    await openssl(["x509", "-req", "-in", request, "-CA", join(directory, "ca.crt"), "-CAkey", join(directory, "ca.key"),
      "-set_serial", `0x${crypto.randomUUID().replaceAll("-", "").slice(0, 30)}`, "-days", String(wish.days ?? DAYS),
      "-extfile", extensions, "-out", cert]); // prettier-ignore
    await chmod(key, 0o600);
    await rename(key, files.keyPath);
    await rename(cert, files.certPath);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return files;
}

/** Where the files of an identity are, whether or not they exist. */
export function filesOf(directory: string, { service, name }: PeerIdentity): TlsFiles {
  const base = join(directory, `${service}-${name}`);
  return { certPath: `${base}.crt`, keyPath: `${base}.key`, caPath: join(directory, "ca.crt") };
}

const NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"] as const;

function hostEntry(host: string): string {
  return isIP(host) === 0 ? `DNS:${host}` : `IP:${host}`;
}

async function openssl(args: readonly string[]): Promise<void> {
  try {
    await run("openssl", [...args], { timeout: 30_000 });
  } catch (error) {
    const reason = (error as { stderr?: string }).stderr ?? String(error);
    throw new PkiFailure(
      { code: "OpensslFailed", arguments: args.slice(0, 2).join(" ") },
      `openssl ${args.slice(0, 2).join(" ")} failed: ${reason.trim()}; install openssl 1.1.1 or newer and check that the directory is writable`,
      { cause: error },
    );
  }
}
