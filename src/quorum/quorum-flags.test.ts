import { expect, test } from "@jest/globals";
import { FlagFailure, parseQuorumFlags } from "./quorum-flags.ts";

const listen = ["--listen", "127.0.0.1:7800"] as const;
const tls = ["--cert", "c", "--key", "k", "--ca", "a"] as const;
const file = ["--store", "file:/var/lib/q"] as const;

test.each([
  { args: [], says: "--listen is missing" },
  { args: ["--listen", "nowhere"], says: "--listen nowhere is no HOST:PORT" },
  { args: ["--listen", "::1:7800"], says: "write an IPv6 address as [ADDRESS]:PORT" },
  { args: ["--listen", "a:70000"], says: "is no HOST:PORT" },
  { args: ["--listen", "a:1,b:2", ...file], says: "all addresses must have the same port" },
  { args: [...listen, "--store", "redis:x"], says: "is none of file:DIRECTORY, etcd:URL[,URL...] and lease" },
  { args: [...listen, "--store", "file:"], says: "is none of file:DIRECTORY, etcd:URL[,URL...] and lease" },
  { args: [...listen, "--store", "etcd:10.0.0.1:2379"], says: "is no etcd address like" },
  { args: [...listen, "--store", "etcd:https://e:1", "--etcd-cert", "x"], says: "belong together" },
  { args: [...listen, ...file, "--etcd-ca", "x"], says: "--etcd-ca has no meaning with --store file" },
  { args: [...listen, ...file, "--namespace", "x"], says: "--namespace has no meaning with --store file" },
  { args: [...listen, "--store", "lease:x"], says: "is none of file:DIRECTORY, etcd:URL[,URL...] and lease" },
  { args: [...listen, "--store", "lease", "--namespace", "X"], says: "--namespace X is no name of a namespace" },
  { args: [...listen, "--store", "lease", "--etcd-ca", "x"], says: "--etcd-ca has no meaning with --store lease" },
  { args: [...listen, ...file], says: "--cert is missing" },
  { args: [...listen, ...file, ...tls, "--log-level", "loud"], says: "--log-level loud is none of" },
  { args: [...listen, ...file, ...tls, "extra"], says: "Unexpected argument 'extra'" },
  { args: ["--lisen", "a:1"], says: "Unknown option '--lisen'" },
])("$says", ({ args, says }) => {
  expect(() => parseQuorumFlags(args)).toThrow(FlagFailure);
  expect(() => parseQuorumFlags(args)).toThrow(says);
});

test("what they mean", () => {
  expect(parseQuorumFlags(["--listen", "10.0.0.1:7800,[fd00::1]:7800", ...file, ...tls])).toEqual({
    hosts: ["10.0.0.1", "fd00::1"],
    port: 7800,
    store: { tag: "file", directory: "/var/lib/q" },
    tls: { certPath: "c", keyPath: "k", caPath: "a" },
    healthDirectory: undefined,
    logLevel: "info",
  });
  const etcd = [
    "--store",
    "etcd:https://e1:2379,https://e2:2379",
    "--etcd-cert",
    "ec",
    "--etcd-key",
    "ek",
    "--etcd-ca",
    "ea",
  ];
  expect(parseQuorumFlags([...listen, ...etcd, ...tls]).store).toEqual({
    tag: "etcd",
    options: {
      urls: ["https://e1:2379", "https://e2:2379"],
      tls: { certPath: "ec", keyPath: "ek", caPath: "ea" },
      prefix: undefined,
    },
  });
  const lease = ["--store", "lease", "--namespace", "twinrun"];
  expect(parseQuorumFlags([...listen, ...lease, ...tls, "--health-directory", "/run/h"])).toMatchObject({
    store: { tag: "lease", namespace: "twinrun" },
    healthDirectory: "/run/h",
  });
});
