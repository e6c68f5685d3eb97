/**
 * A directory with a certificate, its key and the authorities to trust, replaced all three at once and kept over a crash or a
 * loss of power: `current` is a symbolic link to a directory that is never changed any more, and the link is what is replaced.
 *
 *   current -> at-0000000007/      tls.crt  tls.key (0600)  ca.crt
 *
 * Processes that read the files through the link (TlsCredentials) take the new ones up by themselves. The directory before the
 * current one is kept, for one of them may be reading it.
 */
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { TlsFiles } from "../protocol/assignment.ts";

export type HeldCertificate = { readonly certPem: string; readonly keyPem: string; readonly caPem: string };

const names = { certPem: "tls.crt", keyPem: "tls.key", caPem: "ca.crt" } as const;
const generation = /^at-[0-9]{10}$/;

export class CertificateDirectory {
  readonly path: string;

  /** Only its owner may enter it. */
  constructor(path: string) {
    mkdirSync(path, { recursive: true, mode: 0o700 });
    this.path = path;
  }

  /** The same paths for ever. */
  get files(): TlsFiles {
    const current = join(this.path, "current");
    return {
      certPath: join(current, names.certPem),
      keyPath: join(current, names.keyPem),
      caPath: join(current, names.caPem),
    };
  }

  /** Undefined when there is none, or not all of it. */
  read(): HeldCertificate | undefined {
    const { certPath, keyPath, caPath } = this.files;
    try {
      const [certPem, keyPem, caPem] = [certPath, keyPath, caPath].map((path) => readFileSync(path, "utf8"));
      return { certPem: certPem ?? "", keyPem: keyPem ?? "", caPem: caPem ?? "" };
    } catch {
      return undefined;
    }
  }

  replace(held: HeldCertificate): void {
    const before = this.#readCurrent();
    const numbers = this.#listGenerations().map((name) => Number(name.slice(3)));
    const name = `at-${String(Math.max(0, ...numbers) + 1).padStart(10, "0")}`;
    const directory = join(this.path, name);
    mkdirSync(directory, { mode: 0o700 });
    for (const part of ["keyPem", "certPem", "caPem"] as const) {
      writeFileSync(join(directory, names[part]), held[part], { mode: part === "keyPem" ? 0o600 : 0o644, flush: true });
    }
    sync(directory);
    const link = join(this.path, "next");
    rmSync(link, { force: true });
    symlinkSync(name, link);
    renameSync(link, join(this.path, "current"));
    sync(this.path);
    for (const old of this.#listGenerations().filter((other) => other !== name && other !== before)) {
      rmSync(join(this.path, old), { recursive: true, force: true });
    }
  }

  #readCurrent(): string | undefined {
    try {
      return readlinkSync(join(this.path, "current"));
    } catch {
      return undefined;
    }
  }

  #listGenerations(): string[] {
    return readdirSync(this.path).filter((name) => generation.test(name));
  }
}

function sync(directory: string): void {
  const handle = openSync(directory, "r");
  try {
    fsyncSync(handle);
  } finally {
    closeSync(handle);
  }
}
