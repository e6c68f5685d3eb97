import { describe, expect, test } from "@jest/globals";
import { X509Certificate } from "node:crypto";
import { hasKey, isIssuedBy, readCertificate } from "./certificate.ts";
import { makeAuthority, makeCertificate, makeRequest, PkiFailure, readRequest, signRequest } from "./pki.ts";

const dayS = 86_400;
const identity = { service: "node", name: "node-1" } as const;

describe("an authority", () => {
  test("signs what others can check, for whom was wished and for as long", async () => {
    const authority = await makeAuthority("A", 10 * dayS);
    const leaf = await makeCertificate(authority, { identity, seconds: dayS, hosts: ["etcd.a.svc", "10.0.0.1"] });
    const certificate = new X509Certificate(leaf.certPem);
    const facts = readCertificate(leaf.certPem);
    expect(isIssuedBy(leaf.certPem, authority.certPem)).toBe(true);
    expect(hasKey(leaf.certPem, leaf.keyPem)).toBe(true);
    expect(facts).toMatchObject({ identity });
    expect(certificate.checkHost("etcd.a.svc")).toBe("etcd.a.svc");
    expect(certificate.checkIP("10.0.0.1")).toBe("10.0.0.1");
    expect(certificate.ca).toBe(false);
    expect([...certificate.keyUsage].sort()).toEqual(["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]);
    expect(Math.abs((facts?.notAfterMs ?? 0) - Date.now() - dayS * 1_000)).toBeLessThan(60_000);
    // Hosts' clocks differ.
    expect(facts?.notBeforeMs).toBeLessThan(Date.now() - 300_000);
    expect(new X509Certificate(authority.certPem).ca).toBe(true);
  });

  test("is not taken for another one of the same name", async () => {
    const [one, other] = await Promise.all([makeAuthority("A", dayS), makeAuthority("A", dayS)]);
    const leaf = await makeCertificate(one, { identity, seconds: dayS });
    expect(isIssuedBy(leaf.certPem, other.certPem)).toBe(false);
  });
});

describe("a request", () => {
  test("is read for what it asks, and signed for what is wished", async () => {
    const [authority, { requestPem, keyPem }] = await Promise.all([makeAuthority("A", dayS), makeRequest(identity)]);
    expect(await readRequest(requestPem)).toEqual({
      isSigned: true,
      key: "EC prime256v1",
      subjectAltName: "URI:twinrun://node/node-1",
    });
    const other = { service: "node", name: "node-2" } as const;
    const certPem = await signRequest(authority, requestPem, { identity: other, seconds: dayS });
    expect(hasKey(certPem, keyPem)).toBe(true);
    expect(readCertificate(certPem)?.identity).toEqual(other);
  });

  test("that somebody has changed is not signed", async () => {
    const [authority, { requestPem }] = await Promise.all([makeAuthority("A", dayS), makeRequest(identity)]);
    const forged = forgeSignature(requestPem);
    expect(await readRequest(forged)).toMatchObject({ isSigned: false });
    const signing = signRequest(authority, forged, { identity, seconds: dayS });
    await expect(signing).rejects.toThrow(PkiFailure);
  });

  test.each(["", "nothing", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"])(
    "%j is none",
    async (text) => {
      expect(await readRequest(text)).toBeUndefined();
    },
  );

  test("a name that is none is refused", async () => {
    const making = makeRequest({ service: "node", name: "a,URI:twinrun://node/b" });
    await expect(making).rejects.toThrow("is no name of a node");
  });
});

function forgeSignature(pem: string): string {
  const [, body = ""] = /-----\n([^-]+)-----/.exec(pem) ?? [];
  const bytes = Buffer.from(body, "base64");
  bytes.writeUInt8(bytes.readUInt8(bytes.length - 1) ^ 1, bytes.length - 1);
  return `-----BEGIN CERTIFICATE REQUEST-----\n${bytes.toString("base64")}\n-----END CERTIFICATE REQUEST-----\n`;
}
