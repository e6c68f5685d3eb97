/** Without an API server; with a real one: test/lab/kubernetes/node-certificates.test.ts. */
import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CertificateDirectory } from "../net/certificate-directory.ts";
import { makeAuthority, makeCertificate } from "../net/pki.ts";
import { TlsCredentials } from "../net/tls.ts";
import { silentLog } from "../telemetry/log.ts";
import { ensureNodeCertificate, type NodeCertificate, type NodeCertificateCluster } from "./node-certificate.ts";

let directory = "";
let certificate: NodeCertificate | undefined;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "node-certificate-"));
});

afterEach(async () => {
  await certificate?.stop();
  certificate = undefined;
  rmSync(directory, { recursive: true });
});

const away: NodeCertificateCluster = {
  read: () => Promise.reject(new Error("the API server is away")),
  create: () => Promise.reject(new Error("the API server is away")),
};

async function putCertificate(name: string): Promise<void> {
  const authority = await makeAuthority("A", 86_400);
  const pair = await makeCertificate(authority, { identity: { service: "node", name }, seconds: 86_400 });
  new CertificateDirectory(directory).replace({ ...pair, caPem: authority.certPem });
}

const options = () => ({ node: "node-1", directory, namespace: "twinrun", log: silentLog }) as const;

test("with a certificate on the disk a node needs neither API server nor operator", async () => {
  await putCertificate("node-1");
  certificate = await ensureNodeCertificate(away, options());
  const credentials = await TlsCredentials.open(certificate.files);
  expect(credentials.identity).toEqual({ service: "node", name: "node-1" });
  credentials.close();
  await expect(certificate.check()).rejects.toThrow("the API server is away");
  (await TlsCredentials.open(certificate.files)).close();
});

test("one that has ended is used while there is no other", async () => {
  await putCertificate("node-1");
  certificate = await ensureNodeCertificate(away, { ...options(), nowMs: () => Date.now() + 1e12 });
  expect(certificate.files.certPath).toContain(directory);
});

test.each([
  { when: "there is none", put: () => Promise.resolve() },
  { when: "it is another node's", put: () => putCertificate("node-2") },
])("$when: waits until told to stop", async ({ put }) => {
  await put();
  const stopping = new AbortController();
  const waiting = ensureNodeCertificate(away, { ...options(), signal: stopping.signal, timing: { retryMsMin: 10 } });
  const outcome = waiting.then(
    () => "resolved",
    (error: unknown) => (error as Error).name,
  );
  const first = await Promise.race([outcome, new Promise((resolve) => setTimeout(resolve, 200, "waiting"))]);
  expect(first).toBe("waiting");
  stopping.abort();
  expect(await outcome).toBe("AbortError");
});
