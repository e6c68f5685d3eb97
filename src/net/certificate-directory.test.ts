import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { mkdtempSync, readdirSync, rmSync, statSync, unlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CertificateDirectory } from "./certificate-directory.ts";
import { makeAuthority, makeCertificate } from "./pki.ts";
import { TlsCredentials } from "./tls.ts";

let path = "";

beforeEach(() => {
  path = join(mkdtempSync(join(tmpdir(), "certificate-directory-")), "pki");
});

afterEach(() => {
  rmSync(join(path, ".."), { recursive: true });
});

const held = (mark: string) => ({ certPem: `cert ${mark}`, keyPem: `key ${mark}`, caPem: `ca ${mark}` });

test("nothing is there before something was put", () => {
  expect(new CertificateDirectory(path).read()).toBeUndefined();
});

test("what was put last is there, for the next process too; one before it is kept and no more", () => {
  const directory = new CertificateDirectory(path);
  for (const mark of ["1", "2", "3", "4"]) {
    directory.replace(held(mark));
    expect(directory.read()).toEqual(held(mark));
  }
  expect(new CertificateDirectory(path).read()).toEqual(held("4"));
  expect(readdirSync(path).sort()).toEqual(["at-0000000003", "at-0000000004", "current"]);
});

test("nobody else can read the key", () => {
  const directory = new CertificateDirectory(path);
  directory.replace(held("1"));
  expect(statSync(path).mode & 0o777).toBe(0o700);
  expect(statSync(directory.files.keyPath).mode & 0o777).toBe(0o600);
});

test("a directory that lost a part counts as empty, and takes the next one", () => {
  const directory = new CertificateDirectory(path);
  directory.replace(held("1"));
  unlinkSync(directory.files.certPath);
  expect(directory.read()).toBeUndefined();
  directory.replace(held("2"));
  expect(directory.read()).toEqual(held("2"));
});

test("credentials take up the new certificate, key and authority together", async () => {
  const directory = new CertificateDirectory(path);
  const put = async (name: string): Promise<void> => {
    const authority = await makeAuthority(name, 86_400);
    const pair = await makeCertificate(authority, { identity: { service: "node", name }, seconds: 86_400 });
    directory.replace({ ...pair, caPem: authority.certPem });
  };
  await put("one");
  const credentials = await TlsCredentials.open(directory.files, 3_600_000);
  const failures: unknown[] = [];
  credentials.onReloaded((failure) => failures.push(failure));
  await put("two");
  await credentials.reload();
  expect(failures).toEqual([undefined]);
  expect([credentials.identity.name, credentials.isOfOurAuthority]).toEqual(["two", true]);
  credentials.close();
});
