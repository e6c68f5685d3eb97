/** What a certificate says, for those who decide whether it is to be replaced. */
import { createHash, createPrivateKey, X509Certificate } from "node:crypto";
import { parsePeerIdentity, type PeerIdentity } from "./peer-identity.ts";

export type CertificateFacts = {
  /** Of this very certificate. */
  readonly id: string;
  readonly pem: string;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  readonly identity: PeerIdentity | undefined;
};

/** The first one in a text; undefined when there is none. */
export function readCertificate(pem: string): CertificateFacts | undefined {
  try {
    const certificate = new X509Certificate(pem);
    return {
      id: createHash("sha256").update(certificate.raw).digest("hex"),
      pem: certificate.toString(),
      notBeforeMs: Date.parse(certificate.validFrom),
      notAfterMs: Date.parse(certificate.validTo),
      identity: parsePeerIdentity(certificate.subjectAltName),
    };
  } catch {
    return undefined;
  }
}

/** All that can be read, in their order. */
export function readCertificates(pem: string): CertificateFacts[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
  return blocks.flatMap((block) => readCertificate(block) ?? []);
}

export function isIssuedBy(pem: string, authorityPem: string): boolean {
  try {
    const [certificate, authority] = [new X509Certificate(pem), new X509Certificate(authorityPem)];
    return certificate.checkIssued(authority) && certificate.verify(authority.publicKey);
  } catch {
    return false;
  }
}

export function hasKey(pem: string, keyPem: string): boolean {
  try {
    return new X509Certificate(pem).checkPrivateKey(createPrivateKey(keyPem));
  } catch {
    return false;
  }
}
