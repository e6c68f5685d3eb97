/** The hook sidecars of this pod as virt-launcher calls them: pkg/hooks of KubeVirt, since 1.6. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { callHook } from "../../../../build/hook-client.ts";
import { podPaths } from "../vmi.ts";

type Sidecar = {
  readonly name: string;
  readonly socketPath: string;
  readonly version: string;
  readonly hookPoints: readonly { readonly name: string; readonly priority: number }[];
};

/** Newest first; KubeVirt takes the newest that both know. */
const knownVersions = ["v1alpha3", "v1alpha2", "v1alpha1"] as const;
const tickMs = 300;

export class HookSidecars {
  readonly #sidecars: readonly Sidecar[];

  constructor(sidecars: readonly Sidecar[]) {
    this.#sidecars = sidecars;
  }

  /** Waits until as many sidecars answer as the pod has. */
  static async collect(count: number, timeoutMs: number): Promise<HookSidecars> {
    const found = new Map<string, Sidecar>();
    const startedAtMs = performance.now();
    while (found.size < count) {
      if (performance.now() - startedAtMs > timeoutMs) {
        throw new Error(`Timeout exceeded while waiting for ${count} sidecars, found ${found.size}`);
      }
      for (const path of listSocketPaths().filter((each) => !found.has(each))) {
        const sidecar = await askSidecar(path);
        if (sidecar !== undefined) {
          found.set(path, sidecar);
        }
      }
      await sleep(tickMs);
    }
    return new HookSidecars([...found.values()]);
  }

  /** The domain after every subscriber's edit, highest priority first. */
  async onDefineDomain(xml: string, vmi: string): Promise<string> {
    let edited = xml;
    for (const sidecar of this.#listSubscribers("OnDefineDomain")) {
      const request = { domainXML: Buffer.from(edited), vmi: Buffer.from(vmi) };
      const service = `${sidecar.version}.Callbacks`;
      const { status, says, message } = await callHook(sidecar.socketPath, service, "OnDefineDomain", request);
      if (status !== 0) {
        throw new Error(`Failed to call OnDefineDomain of ${sidecar.name}: ${says} (status ${status})`);
      }
      edited = (message["domainXML"] as Buffer).toString();
    }
    return edited;
  }

  async shutdown(): Promise<void> {
    for (const sidecar of this.#listSubscribers("Shutdown").filter(({ version }) => version === "v1alpha3")) {
      await callHook(sidecar.socketPath, "v1alpha3.Callbacks", "Shutdown");
    }
  }

  #listSubscribers(point: string): Sidecar[] {
    const priorityOf = ({ hookPoints }: Sidecar): number =>
      hookPoints.find(({ name }) => name === point)?.priority ?? 0;
    return this.#sidecars
      .filter(({ hookPoints }) => hookPoints.some(({ name }) => name === point))
      .sort((a, b) => priorityOf(b) - priorityOf(a));
  }
}

/** Every file in every sidecar's folder is taken for a socket; folders in them are not looked into. */
function listSocketPaths(): string[] {
  if (!existsSync(podPaths.hooks)) {
    return [];
  }
  return readdirSync(podPaths.hooks, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .flatMap(({ name }) =>
      readdirSync(join(podPaths.hooks, name), { withFileTypes: true })
        .filter((entry) => !entry.isDirectory())
        .map((entry) => join(podPaths.hooks, name, entry.name)),
    );
}

async function askSidecar(socketPath: string): Promise<Sidecar | undefined> {
  const { status, message } = await callHook(socketPath, "info.Info", "Info");
  if (status !== 0) {
    return undefined;
  }
  const { name, versions, hookPoints } = message as Pick<Sidecar, "name" | "hookPoints"> & { versions: string[] };
  const version = knownVersions.find((each) => versions.includes(each));
  if (version === undefined) {
    throw new Error(`Hook sidecar ${name} does not have a supported version: ${versions.join(", ")}`);
  }
  return { name, socketPath, version, hookPoints };
}
