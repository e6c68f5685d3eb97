/** The names that hosts A and B have to one another, and the certificates of everybody on a lab. */
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { present } from "../../src/lib/assert.ts";
import { type TlsFiles } from "../../src/protocol/assignment.ts";
import { type Lab } from "./hosts.ts";
import { pairHosts, type PairHost } from "./placement.ts";

const run = promisify(execFile);

export type LabCertificates = Readonly<Record<PairHost | "q", TlsFiles>>;

export const nodeName = (host: PairHost): string => `host-${host}`;

/** Made by the program that a person would use, on the disk of the quorum's host. */
export async function issueCertificates(lab: Lab): Promise<LabCertificates> {
  const program = new URL("../../src/main/pki.ts", import.meta.url).pathname;
  const directory = join(lab.diskDirectory("q"), "pki");
  const names = pairHosts.flatMap((host) => ["--node", nodeName(host)]);
  const { stdout } = await run(process.execPath, [program, "--dir", directory, ...names, "--quorum", "quorum"]);
  const made = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as TlsFiles & { readonly name: string });
  const find = (wanted: string): TlsFiles => {
    const { certPath, keyPath, caPath } = present(
      made.find(({ name }) => name === wanted),
      `a certificate for ${wanted}`,
    );
    return { certPath, keyPath, caPath };
  };
  return { a: find(nodeName("a")), b: find(nodeName("b")), q: find("quorum") };
}
