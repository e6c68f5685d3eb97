/** A kubeconfig as kubectl reads it: several files count as one, in which the first to name something wins. */
import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import type { KubeConfig } from "@kubernetes/client-node";
import type { Access, TlsMaterial } from "./server-access.ts";
import { accessUnusable } from "./kube-failure.ts";

type Entry<Name extends string, Content> = { readonly name: string } & { readonly [N in Name]?: Content };
type ClusterEntry = {
  readonly server?: string;
  readonly "certificate-authority"?: string;
  readonly "certificate-authority-data"?: string;
  readonly "tls-server-name"?: string;
  readonly "insecure-skip-tls-verify"?: boolean;
  readonly "proxy-url"?: string;
};
type UserEntry = {
  readonly "client-certificate"?: string;
  readonly "client-certificate-data"?: string;
  readonly "client-key"?: string;
  readonly "client-key-data"?: string;
  readonly token?: string;
  readonly tokenFile?: string;
  readonly username?: string;
  readonly password?: string;
  readonly as?: string;
  readonly "as-groups"?: readonly string[];
  readonly exec?: unknown;
  readonly "auth-provider"?: unknown;
};
type ContextEntry = { readonly cluster?: string; readonly user?: string; readonly namespace?: string };
type Kubeconfig = {
  readonly "current-context"?: string;
  readonly clusters?: readonly Entry<"cluster", ClusterEntry>[];
  readonly users?: readonly Entry<"user", UserEntry>[];
  readonly contexts?: readonly Entry<"context", ContextEntry>[];
};

/** Throws AccessUnusable. */
export async function openKubeconfig(paths: readonly string[], wantedContext?: string): Promise<Access> {
  const config = merge(await Promise.all(paths.map(readConfig)));
  const contextName = wantedContext ?? config["current-context"] ?? "";
  const chosen = choose(config, contextName, paths.join(", "));
  const access = accessOf(chosen);
  return needsLibrary(chosen) ? askLibrary({ config, contextName, access }) : access;
}

type Chosen = { readonly cluster: ClusterEntry; readonly user: UserEntry; readonly namespace: string | undefined };

function choose(config: Kubeconfig, contextName: string, where: string): Chosen {
  const context = findEntry(config.contexts, contextName)?.context;
  if (context === undefined) {
    const names = (config.contexts ?? []).map(({ name }) => name).join(", ");
    throw accessUnusable(`${where} has no context "${contextName}"`, `choose one of: ${names}`);
  }
  const cluster = findEntry(config.clusters, context.cluster)?.cluster;
  const user = findEntry(config.users, context.user)?.user;
  if (cluster?.server === undefined) {
    throw accessUnusable(`${where} has no server for context ${contextName}`, "name the cluster's server in it");
  }
  return { cluster, user: user ?? {}, namespace: context.namespace };
}

const accessOf = ({ cluster, user, namespace }: Chosen): Access => ({
  server: parseServer(cluster.server ?? ""),
  tls: { ...readAuthority(cluster), ...readCertificate(user) },
  headers: { ...readAuthorization(user), ...listImpersonation(user) },
  namespace,
  proxyUrl: cluster["proxy-url"],
});

function parseServer(server: string): URL {
  try {
    return new URL(server);
  } catch (cause) {
    throw accessUnusable(`${server} is no URL`, "write the cluster's server as https://HOST:PORT", cause);
  }
}

const needsLibrary = ({ cluster, user }: Chosen): boolean =>
  user.exec !== undefined || user["auth-provider"] !== undefined || cluster["proxy-url"]?.startsWith("socks") === true;

/** JSON is YAML too, and needs no parser to be loaded. Paths in a file start from its directory. */
async function readConfig(path: string): Promise<Kubeconfig> {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw accessUnusable(`${path} cannot be read`, "correct KUBECONFIG or make the file readable", cause);
  }
  try {
    const parsed: unknown = text.trimStart().startsWith("{") ? JSON.parse(text) : (await import("yaml")).parse(text);
    return makePathsAbsolute(parsed ?? {}, dirname(resolve(path)));
  } catch (cause) {
    throw accessUnusable(`${path} is no kubeconfig`, "correct it until `kubectl config view` takes it", cause);
  }
}

function makePathsAbsolute(config: Kubeconfig, directory: string): Kubeconfig {
  const absolute = <T extends object>(entry: T, names: readonly (keyof T & string)[]): T =>
    Object.fromEntries(
      Object.entries(entry as Readonly<Record<string, unknown>>).map(([name, value]) => [
        name,
        (names as readonly string[]).includes(name) && typeof value === "string" && value !== ""
          ? resolve(directory, value)
          : value,
      ]),
    ) as T;
  return {
    ...config,
    clusters: (config.clusters ?? []).map(({ name, cluster = {} }) => ({
      name,
      cluster: absolute(cluster, ["certificate-authority"]),
    })),
    users: (config.users ?? []).map(({ name, user = {} }) => ({
      name,
      user: absolute(user, ["client-certificate", "client-key", "tokenFile"]),
    })),
  };
}

function merge(configs: readonly Kubeconfig[]): Kubeconfig {
  const current = configs.map((config) => config["current-context"]).find((name) => name !== undefined && name !== "");
  return {
    ...(current === undefined ? {} : { "current-context": current }),
    clusters: configs.flatMap(({ clusters = [] }) => clusters),
    users: configs.flatMap(({ users = [] }) => users),
    contexts: configs.flatMap(({ contexts = [] }) => contexts),
  };
}

const findEntry = <E extends { readonly name: string }>(entries: readonly E[] | undefined, name: string | undefined) =>
  entries?.find((entry) => entry.name === name);

/** Data wins over a file, as with kubectl. */
function readPem(data: string | undefined, path: string | undefined): Buffer | undefined {
  if (data !== undefined && data !== "") {
    return Buffer.from(data, "base64");
  }
  if (path === undefined || path === "") {
    return undefined;
  }
  try {
    return readFileSync(path);
  } catch (cause) {
    throw accessUnusable(`${path}, named in the kubeconfig, cannot be read`, "make it readable or correct it", cause);
  }
}

function readAuthority(cluster: ClusterEntry): TlsMaterial {
  const ca = readPem(cluster["certificate-authority-data"], cluster["certificate-authority"]);
  const servername = cluster["tls-server-name"];
  return {
    ...(ca === undefined ? {} : { ca }),
    ...(servername === undefined ? {} : { servername }),
    ...(cluster["insecure-skip-tls-verify"] === true ? { rejectUnauthorized: false } : {}),
  };
}

function readCertificate(user: UserEntry): TlsMaterial {
  const cert = readPem(user["client-certificate-data"], user["client-certificate"]);
  const key = readPem(user["client-key-data"], user["client-key"]);
  return cert === undefined || key === undefined ? {} : { cert, key };
}

function readAuthorization({ token, tokenFile, username, password }: UserEntry): Record<string, string> {
  const read = readPem(undefined, tokenFile)?.toString("utf8").trim() ?? token;
  if (read !== undefined && read !== "") {
    return { authorization: `Bearer ${read}` };
  }
  return username === undefined
    ? {}
    : { authorization: `Basic ${Buffer.from(`${username}:${password ?? ""}`).toString("base64")}` };
}

function listImpersonation({ as, "as-groups": groups }: UserEntry): Record<string, string | readonly string[]> {
  return {
    ...(as === undefined ? {} : { "impersonate-user": as }),
    ...(groups === undefined ? {} : { "impersonate-group": groups }),
  };
}

type Asked = { readonly config: Kubeconfig; readonly contextName: string; readonly access: Access };

/** Runs the user's plug-in. What the library remembers of it (a token and its expiry) serves the next call too. */
async function askLibrary({ config, contextName, access }: Asked): Promise<Access> {
  const library = await import("@kubernetes/client-node");
  const text = JSON.stringify({ ...config, "current-context": contextName });
  if (rememberedLibrary?.text !== text) {
    const opened = new library.KubeConfig();
    opened.loadFromString(text);
    rememberedLibrary = { text, opened };
  }
  const options: Parameters<typeof rememberedLibrary.opened.applyToHTTPSOptions>[0] = {};
  try {
    await rememberedLibrary.opened.applyToHTTPSOptions(options);
  } catch (cause) {
    throw accessUnusable(
      `the sign-in plug-in of context ${contextName} failed (${String(cause)})`,
      "run `kubectl get nodes` to see what it needs",
      cause,
    );
  }
  const { cert, key, headers, agent } = options as {
    cert?: string | Buffer;
    key?: string | Buffer;
    headers?: Record<string, string>;
    agent?: Access["agent"];
  };
  const given = Object.entries(headers ?? {}).map(([name, value]) => [name.toLowerCase(), value] as const);
  return {
    ...access,
    tls: { ...access.tls, ...(cert === undefined || key === undefined ? {} : { cert, key }) },
    headers: { ...access.headers, ...Object.fromEntries(given) },
    ...(access.proxyUrl?.startsWith("socks") === true && agent !== undefined ? { agent } : {}),
  };
}

let rememberedLibrary: { readonly text: string; readonly opened: KubeConfig } | undefined;
