/**
 * `node src/main/pki.ts --dir DIR [--node NAME]... [--quorum NAME]... [--operator NAME]... [--monitor NAME]... [--host HOST]... [--days N]`
 *
 * Makes a CA in DIR unless there is one, and a certificate for each name; `--host` adds addresses to all of them, for use
 * with an etcd of the lab. Prints one line of JSON for each certificate with the paths of its files.
 */
import { parseArgs } from "node:util";
import { Failure } from "../lib/failure.ts";
import { createAuthority, issueCertificate } from "../net/pki.ts";
import { PEER_SERVICES } from "../net/peer-identity.ts";

const USAGE =
  "usage: node src/main/pki.ts --dir DIR [--node NAME]... [--quorum NAME]... [--operator NAME]... [--monitor NAME]... [--host HOST]... [--days N]";

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      dir: { type: "string" },
      node: { type: "string", multiple: true, default: [] },
      quorum: { type: "string", multiple: true, default: [] },
      operator: { type: "string", multiple: true, default: [] },
      monitor: { type: "string", multiple: true, default: [] },
      host: { type: "string", multiple: true, default: [] },
      days: { type: "string", default: "365" },
    },
  });
  const days = Number(values.days);
  if (values.dir === undefined || !Number.isInteger(days) || days < 1) {
    throw new Error("--dir is required, and --days must be a whole number of at least 1");
  }
  await createAuthority(values.dir);
  for (const service of PEER_SERVICES) {
    for (const name of values[service]) {
      const files = await issueCertificate(values.dir, { identity: { service, name }, days, hosts: values.host });
      process.stdout.write(`${JSON.stringify({ service, name, ...files })}\n`);
    }
  }
}

try {
  await main();
} catch (error) {
  const usage = error instanceof Failure ? "" : `\n${USAGE}`;
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}${usage}\n`);
  process.exitCode = 2;
}
