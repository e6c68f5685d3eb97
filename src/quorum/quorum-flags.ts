/** The quorum's command line, turned into what it means or into a sentence that says what is wrong with it. */
import { parseArgs } from "node:util";
import { Failure } from "../lib/failure.ts";
import type { TlsFiles } from "../protocol/assignment.ts";
import { LOG_LEVELS, type LogLevel } from "../telemetry/log.ts";
import type { EtcdOptions } from "./etcd-store.ts";

export type StoreChoice =
  { readonly tag: "file"; readonly directory: string } | { readonly tag: "etcd"; readonly options: EtcdOptions };

export type QuorumFlags = {
  readonly hosts: readonly string[];
  readonly port: number;
  readonly store: StoreChoice;
  readonly tls: TlsFiles;
  readonly logLevel: LogLevel;
};

export class FlagFailure extends Failure<{ readonly code: "BadFlag"; readonly flag: string }> {}

export const QUORUM_USAGE = `usage: node src/main/quorum.ts --listen HOST:PORT[,HOST:PORT...]
    --store file:DIRECTORY | etcd:URL[,URL...]
    --cert FILE --key FILE --ca FILE [--etcd-cert FILE --etcd-key FILE] [--etcd-ca FILE] [--etcd-prefix PREFIX]
    [--log-level ${LOG_LEVELS.join("|")}]`;

const TEXT = { type: "string" } as const;
const OPTIONS = {
  listen: TEXT,
  store: TEXT,
  cert: TEXT,
  key: TEXT,
  ca: TEXT,
  "etcd-cert": TEXT,
  "etcd-key": TEXT,
  "etcd-ca": TEXT,
  "etcd-prefix": TEXT,
  "log-level": TEXT,
};
type Values = Readonly<Partial<Record<keyof typeof OPTIONS, string>>>;

/** Throws a {@link FlagFailure}. */
export function parseQuorumFlags(args: readonly string[]): QuorumFlags {
  let values: Values;
  try {
    ({ values } = parseArgs({ args: [...args], options: OPTIONS, strict: true, allowPositionals: false }));
  } catch (error) {
    throw bad("", error instanceof Error ? error.message : String(error));
  }
  return {
    ...parseListen(required(values, "listen")),
    store: parseStore(required(values, "store"), values),
    tls: { certPath: required(values, "cert"), keyPath: required(values, "key"), caPath: required(values, "ca") },
    logLevel: parseLogLevel(values["log-level"] ?? "info"),
  };
}

function required(values: Values, flag: keyof typeof OPTIONS): string {
  const value = values[flag];
  if (value === undefined || value === "") {
    throw bad(flag, `--${flag} is missing`);
  }
  return value;
}

function parseListen(text: string): { readonly hosts: readonly string[]; readonly port: number } {
  const addresses = text.split(",").map((address) => {
    const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+)):([0-9]{1,5})$/.exec(address);
    const host = match?.[1] ?? match?.[2];
    const port = Number(match?.[3]);
    if (host === undefined || port > 65_535) {
      throw bad("listen", `--listen ${address} is no HOST:PORT; write an IPv6 address as [ADDRESS]:PORT`);
    }
    return { host, port };
  });
  const port = addresses[0]?.port ?? 0;
  if (addresses.some((address) => address.port !== port)) {
    throw bad("listen", "--listen: all addresses must have the same port");
  }
  return { hosts: addresses.map(({ host }) => host), port };
}

function parseStore(text: string, values: Values): StoreChoice {
  const [, kind, rest = ""] = /^(file|etcd):(.+)$/.exec(text) ?? [];
  const etcdFlag = (["etcd-cert", "etcd-key", "etcd-ca", "etcd-prefix"] as const).find(
    (flag) => values[flag] !== undefined,
  );
  if (kind === "file") {
    if (etcdFlag !== undefined) {
      throw bad(etcdFlag, `--${etcdFlag} has no meaning with a file store: drop it, or use --store etcd:URL`);
    }
    return { tag: "file", directory: rest };
  }
  if (kind !== "etcd") {
    throw bad("store", `--store ${text} is neither file:DIRECTORY nor etcd:URL[,URL...]`);
  }
  const urls = rest.split(",").map(parseEtcdUrl);
  if ((values["etcd-cert"] === undefined) !== (values["etcd-key"] === undefined)) {
    throw bad("etcd-cert", "--etcd-cert and --etcd-key belong together: give both or neither");
  }
  const tls = { certPath: values["etcd-cert"], keyPath: values["etcd-key"], caPath: values["etcd-ca"] };
  return { tag: "etcd", options: { urls, tls, prefix: values["etcd-prefix"] } };
}

function parseEtcdUrl(text: string): string {
  const url = URL.parse(text);
  if (url === null || !["http:", "https:"].includes(url.protocol) || url.pathname !== "/") {
    throw bad("store", `--store: ${text} is no etcd address like https://10.0.0.1:2379`);
  }
  return url.origin;
}

function parseLogLevel(text: string): LogLevel {
  const level = LOG_LEVELS.find((candidate) => candidate === text);
  if (level === undefined) {
    throw bad("log-level", `--log-level ${text} is none of ${LOG_LEVELS.join(", ")}`);
  }
  return level;
}

function bad(flag: string, says: string): FlagFailure {
  return new FlagFailure({ code: "BadFlag", flag }, says);
}
