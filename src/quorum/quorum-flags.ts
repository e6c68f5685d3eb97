/** The quorum's command line, turned into what it means or into a sentence that says what is wrong with it. */
import { parseArgs } from "node:util";
import { Failure } from "../lib/failure.ts";
import { parseHostPort } from "../lib/host-port.ts";
import type { TlsFiles } from "../protocol/assignment.ts";
import { LOG_LEVELS, type LogLevel } from "../telemetry/log.ts";
import type { EtcdOptions } from "./etcd-store.ts";

export type StoreChoice =
  | { readonly tag: "file"; readonly directory: string }
  | { readonly tag: "etcd"; readonly options: EtcdOptions }
  /** In the pod's own namespace unless told. */
  | { readonly tag: "lease"; readonly namespace: string | undefined };

export type QuorumFlags = {
  readonly hosts: readonly string[];
  readonly port: number;
  readonly store: StoreChoice;
  readonly tls: TlsFiles;
  /** Where to leave the files that probes look at. */
  readonly healthDirectory: string | undefined;
  readonly logLevel: LogLevel;
};

export class FlagFailure extends Failure<{ readonly code: "BadFlag"; readonly flag: string }> {}

export const QUORUM_USAGE = `usage: node src/main/quorum.ts --listen HOST:PORT[,HOST:PORT...]
    --store file:DIRECTORY | etcd:URL[,URL...] | lease
    --cert FILE --key FILE --ca FILE [--etcd-cert FILE --etcd-key FILE] [--etcd-ca FILE] [--etcd-prefix PREFIX]
    [--namespace NAMESPACE] [--health-directory DIRECTORY]
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
  namespace: TEXT,
  "health-directory": TEXT,
  "log-level": TEXT,
};
type Flag = keyof typeof OPTIONS;
type Values = Readonly<Partial<Record<Flag, string>>>;

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
    healthDirectory: values["health-directory"],
    logLevel: parseLogLevel(values["log-level"] ?? "info"),
  };
}

function required(values: Values, flag: Flag): string {
  const value = values[flag];
  if (value === undefined || value === "") {
    throw bad(flag, `--${flag} is missing`);
  }
  return value;
}

function parseListen(text: string): { readonly hosts: readonly string[]; readonly port: number } {
  const addresses = text.split(",").map((address) => {
    const parsed = parseHostPort(address);
    if (parsed === undefined) {
      throw bad("listen", `--listen ${address} is no HOST:PORT; write an IPv6 address as [ADDRESS]:PORT`);
    }
    return parsed;
  });
  const port = addresses[0]?.port ?? 0;
  if (addresses.some((address) => address.port !== port)) {
    throw bad("listen", "--listen: all addresses must have the same port");
  }
  return { hosts: addresses.map(({ host }) => host), port };
}

const FLAGS_OF_STORES = {
  file: [],
  etcd: ["etcd-cert", "etcd-key", "etcd-ca", "etcd-prefix"],
  lease: ["namespace"],
} as const satisfies Record<StoreChoice["tag"], readonly Flag[]>;

function parseStore(text: string, values: Values): StoreChoice {
  const [, kind, rest = ""] = /^(?:(file|etcd):(?=.)|lease$)(.*)$/.exec(text) ?? [];
  const tag = text === "lease" ? "lease" : kind === "file" || kind === "etcd" ? kind : undefined;
  if (tag === undefined) {
    throw bad("store", `--store ${text} is none of file:DIRECTORY, etcd:URL[,URL...] and lease`);
  }
  refuseForeignFlags(tag, values);
  switch (tag) {
    case "file":
      return { tag, directory: rest };
    case "etcd":
      return { tag, options: parseEtcd(rest, values) };
    case "lease":
      return { tag, namespace: parseNamespace(values.namespace) };
  }
}

function refuseForeignFlags(tag: StoreChoice["tag"], values: Values): void {
  for (const [owner, flags] of Object.entries(FLAGS_OF_STORES)) {
    const flag = owner === tag ? undefined : flags.find((candidate) => values[candidate] !== undefined);
    if (flag !== undefined) {
      throw bad(flag, `--${flag} has no meaning with --store ${tag}: drop it, or use --store ${owner}`);
    }
  }
}

function parseEtcd(rest: string, values: Values): EtcdOptions {
  const urls = rest.split(",").map(parseEtcdUrl);
  if ((values["etcd-cert"] === undefined) !== (values["etcd-key"] === undefined)) {
    throw bad("etcd-cert", "--etcd-cert and --etcd-key belong together: give both or neither");
  }
  const tls = { certPath: values["etcd-cert"], keyPath: values["etcd-key"], caPath: values["etcd-ca"] };
  return { urls, tls, prefix: values["etcd-prefix"] };
}

function parseNamespace(name: string | undefined): string | undefined {
  if (name !== undefined && !/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(name)) {
    throw bad("namespace", `--namespace ${name} is no name of a namespace`);
  }
  return name;
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
