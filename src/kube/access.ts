/**
 * Where the API server is and who we are there: a pod's service account, or a kubeconfig.
 *
 * Files are read again at least once a minute and after the server refused what they held, so that rotated tokens and
 * certificates are used without a restart.
 *
 * Why not the KubeConfig of @kubernetes/client-node for everything: importing any part of it costs a process 85 MiB (the
 * OpenAPI models come with it), which is more than a node's agent needs for all its work. It is imported only for a kubeconfig
 * whose user signs in by a plug-in (exec, auth-provider) or whose proxy speaks SOCKS; a pod never has one.
 */
import { existsSync, readFileSync } from "node:fs";
import { isIPv6 } from "node:net";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import type { Access } from "./server-access.ts";
import { openKubeconfig } from "./kubeconfig.ts";
import { accessUnusable } from "./kube-failure.ts";

export type { Access } from "./server-access.ts";

export type AccessSource = {
  /** Throws {@link KubeFailure} AccessUnusable. */
  read(): Promise<Access>;
  /** What was read is not good any more. */
  forget(): void;
};

const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount";
const readAgainAfterMs = 60_000;

/** KUBECONFIG, else `~/.kube/config`, else the service account of the pod; the order of kubectl. */
export function findAccess(environment: NodeJS.ProcessEnv = process.env): AccessSource {
  const named = (environment["KUBECONFIG"] ?? "").split(delimiter).filter((path) => path !== "");
  if (named.length > 0) {
    return openKubeconfigs(named);
  }
  const own = join(homedir(), ".kube", "config");
  return existsSync(own) ? openKubeconfigs([own]) : openServiceAccount(serviceAccount, environment);
}

export function openKubeconfigs(paths: readonly string[], context?: string): AccessSource {
  return remember(() => openKubeconfig(paths, context));
}

/** The pod's own; `directory` holds `token`, `ca.crt` and `namespace`. */
export function openServiceAccount(directory: string, environment: NodeJS.ProcessEnv = process.env): AccessSource {
  return remember(() => Promise.resolve().then(() => readServiceAccount(directory, environment)));
}

function readServiceAccount(directory: string, environment: NodeJS.ProcessEnv): Access {
  const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port = "443" } = environment;
  if (host === undefined || host === "") {
    throw accessUnusable(
      "there is no kubeconfig and this is no pod",
      "set KUBECONFIG to the file that kubectl uses, or run in a pod that mounts its service account",
    );
  }
  const read = (name: string): string => {
    try {
      return readFileSync(join(directory, name), "utf8");
    } catch (cause) {
      const remedy = "let the pod mount the token of its service account (automountServiceAccountToken)";
      throw accessUnusable(`${join(directory, name)} cannot be read`, remedy, cause);
    }
  };
  const namespacePath = join(directory, "namespace");
  return {
    server: new URL(`https://${isIPv6(host) ? `[${host}]` : host}:${port}`),
    tls: { ca: read("ca.crt") },
    headers: { authorization: `Bearer ${read("token").trim()}` },
    namespace: existsSync(namespacePath) ? readFileSync(namespacePath, "utf8").trim() : undefined,
  };
}

/** What was read serves for a minute: kubelet replaces a token when a fifth of its life is left. */
function remember(read: () => Promise<Access>): AccessSource {
  let access: Promise<Access> | undefined;
  let readAtMs = 0;
  return {
    read: () => {
      if (access === undefined || performance.now() - readAtMs > readAgainAfterMs) {
        readAtMs = performance.now();
        const reading = read();
        access = reading;
        reading.catch(() => {
          access = access === reading ? undefined : access;
        });
      }
      return access;
    },
    forget: () => {
      access = undefined;
    },
  };
}
