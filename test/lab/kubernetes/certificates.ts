/**
 * Certificates as a Kubernetes cluster wants them: one authority for servers, clients and nodes, another for the API server's
 * own requests to aggregated API servers, and the key that signs tokens of service accounts.
 *
 * Made with the openssl program, for Node cannot. Ten of them take a quarter of a second. What Twinrun itself needs between
 * its processes is made by src/net/pki.ts; these differ in that subjects carry users and groups.
 */
import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isIP } from "node:net";
import { promisify } from "node:util";

const run = promisify(execFile);
const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"] as const;

export type Certificate = { readonly certPath: string; readonly keyPath: string; readonly authorityPath: string };

export type CertificateWish = {
  /** Name of the files. */
  readonly name: string;
  /** `/O=GROUP/CN=USER` for whoever shows it to the API server. */
  readonly subject: string;
  /** Names and addresses, for servers. */
  readonly hosts?: readonly string[];
};

export class Authority {
  readonly #directory: string;
  readonly #name: string;

  private constructor(directory: string, name: string) {
    this.#directory = directory;
    this.#name = name;
  }

  get certPath(): string {
    return join(this.#directory, `${this.#name}.crt`);
  }

  get keyPath(): string {
    return join(this.#directory, `${this.#name}.key`);
  }

  static async create(directory: string, name: string): Promise<Authority> {
    const authority = new Authority(directory, name);
    await openssl([
      ...["req", "-x509", ...newKey, "-days", "3650", "-subj", `/CN=${name}`],
      ...["-keyout", authority.keyPath, "-out", authority.certPath],
      ...["-addext", "keyUsage=critical,keyCertSign,cRLSign"],
    ]);
    return authority;
  }

  async issue({ name, subject, hosts = [] }: CertificateWish): Promise<Certificate> {
    const base = join(this.#directory, name);
    const names = hosts.map((host) => `${isIP(host) === 0 ? "DNS" : "IP"}:${host}`).join(",");
    await writeFile(
      `${base}.extensions`,
      [
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        "extendedKeyUsage=serverAuth,clientAuth",
        ...(names === "" ? [] : [`subjectAltName=${names}`]),
      ].join("\n"),
    );
    await openssl(["req", "-new", ...newKey, "-subj", subject, "-keyout", `${base}.key`, "-out", `${base}.request`]);
    await openssl([
      ...["x509", "-req", "-in", `${base}.request`, "-CA", this.certPath, "-CAkey", this.keyPath, "-days", "365"],
      ...["-set_serial", `0x${crypto.randomUUID().replaceAll("-", "").slice(0, 30)}`],
      ...["-extfile", `${base}.extensions`, "-out", `${base}.crt`],
    ]);
    return { certPath: `${base}.crt`, keyPath: `${base}.key`, authorityPath: this.certPath };
  }
}

/** The key that signs tokens of service accounts; the path of its private and of its public half. */
export async function createTokenKey(directory: string): Promise<{ privatePath: string; publicPath: string }> {
  const [privatePath, publicPath] = [join(directory, "tokens.key"), join(directory, "tokens.pub")];
  await openssl(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", privatePath]);
  await openssl(["pkey", "-in", privatePath, "-pubout", "-out", publicPath]);
  return { privatePath, publicPath };
}

async function openssl(args: readonly string[]): Promise<void> {
  await run("openssl", [...args], { timeout: 30_000 });
}
