/**
 * `make demo-cluster`: a Kubernetes of three nodes on this machine, Twinrun installed by its chart, a Debian with PostgreSQL and
 * Redis under protection, and the node it runs on loses its power. Every command is printed as a person would give it. Exit status 1
 * when a client saw anything wrong.
 */
import { spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { present } from "../../src/lib/assert.ts";
import { startClient } from "../lab/clients/client-process.ts";
import { type PgbenchResult, runPgbench, waitForPostgres } from "../lab/clients/pgbench.ts";
import { requirePrograms } from "../lab/kubernetes/programs.ts";
import { findLongestWait, isFlawless, stopWitnesses, sumVerdicts, type Witness } from "../lab/load.ts";
import { buildProtectedGuest } from "../e2e/guest-manifests.ts";
import { type Platform, startPlatform, tenantNamespace } from "../e2e/platform.ts";
import { Narrator } from "./narrator.ts";

const root = join(import.meta.dirname, "../..");
const guest = "shop";
const address = "10.77.0.60";
const readyMsMax = 300_000;
const takeoverMsMax = 60_000;
/** What a witness waits for a reply before it calls it lost; far above any takeover. */
const stallMs = 120_000;
const narrator = new Narrator();

class Story {
  readonly #platform: Platform;
  readonly #directory = join(root, "build/demo-cluster");

  constructor(platform: Platform) {
    this.#platform = platform;
  }

  async tell(): Promise<boolean> {
    const readyMs = await this.#protect();
    const witnesses = this.#startWitnesses();
    narrator.announce("pgbench works with two clients, and three more clients count every answer");
    const { lab } = this.#platform;
    const pgbench = runPgbench(lab, { host: address, clientsCount: 2, durationSeconds: 45 });
    await sleep(10_000);
    const lost = (await this.#platform.waitUntilReady(guest)).status?.primary?.node ?? "";
    const strikeAtMs = Date.now();
    narrator.announce(`Power off: ${lost}, on which the guest runs`);
    await lab.powerOff(lost);
    const after = await this.#platform.waitForProtectedVm(
      guest,
      ({ status }) => status?.lastFailover !== undefined && status.primary?.node !== lost,
      takeoverMsMax,
    );
    const { durationMs, cause } = present(after.status?.lastFailover, "a failover");
    narrator.say(`${after.status?.primary?.node ?? ""} goes on: ${cause}`);
    await this.#show("kubectl", ["get", "protectedvms", "--namespace", tenantNamespace]);
    await sleep(5_000);
    narrator.announce(`${lost} gets its power back, and the guest its second copy`);
    await lab.powerOn(lost);
    await sleep(2_000);
    await this.#platform.waitUntilReady(guest, readyMsMax);
    await this.#show("kubectl", ["twinrun", "status", "--namespace", tenantNamespace]);
    const result = await pgbench;
    narrator.announce("The clients finish and check everything they were ever told");
    const results = await stopWitnesses(witnesses);
    const waitMs = findLongestWait(results, guest, strikeAtMs, strikeAtMs + takeoverMsMax);
    return this.#judge({ results, result, readyMs, standstillMs: durationMs, waitMs });
  }

  /** Milliseconds from apply to Ready. */
  async #protect(): Promise<number> {
    mkdirSync(this.#directory, { recursive: true });
    const manifest = join(this.#directory, "guest.yaml");
    const placement = { nodes: ["node-a", "node-b"] };
    writeFileSync(manifest, stringify(buildProtectedGuest({ name: guest, kind: "debian", address, placement })));
    narrator.announce("A guest with PostgreSQL is asked for");
    const startedAtMs = Date.now();
    await this.#show("kubectl", ["apply", "--filename", manifest]);
    await this.#platform.waitUntilReady(guest, readyMsMax);
    const readyMs = Date.now() - startedAtMs;
    await this.#show("kubectl", ["get", "protectedvms,vmi", "--all-namespaces"]);
    narrator.say(`protected after ${(readyMs / 1000).toFixed(1)} s; the guest still boots`);
    await waitForPostgres(this.#platform.lab, address, readyMsMax);
    narrator.say("PostgreSQL answers");
    return readyMs;
  }

  /** They open their connections once and never again. */
  #startWitnesses(): Witness[] {
    const { lab } = this.#platform;
    const base = { host: address, connectionsCount: 4, thinkMs: 100, stallMs };
    const session = `witness-${Date.now()}`;
    return [
      { name: "synced requests", guest, client: startClient(lab, "counted", base) },
      { name: "redis increments", guest, client: startClient(lab, "redis", { ...base, mode: "increment", session }) },
      { name: "postgres ledger", guest, client: startClient(lab, "ledger", { ...base, firstConnection: 1000 }) },
    ];
  }

  #judge(seen: {
    readonly results: Awaited<ReturnType<typeof stopWitnesses>>;
    readonly result: PgbenchResult;
    readonly readyMs: number;
    readonly standstillMs: number | undefined;
    readonly waitMs: number;
  }): boolean {
    const verdicts = sumVerdicts(seen.results);
    const { lostCount, failedCount, transactionsCount, sumsAgree, tps } = seen.result;
    narrator.table("What the clients saw", [
      ["connections opened / survived", `${verdicts.connections} / ${verdicts.survived}`],
      ["replies, each checked", String(verdicts.replies)],
      ["lost / duplicated / reordered", `${verdicts.lost} / ${verdicts.duplicated} / ${verdicts.reordered}`],
      ["connections broken / wrong answers", `${verdicts.broken} / ${verdicts.wrong}`],
      ["longest wait for a reply around the power-off", `${seen.waitMs.toFixed(0)} ms`],
      [
        "transactions lost (pgbench through the power-off)",
        `${lostCount} of ${transactionsCount}, ${tps.toFixed(1)} /s`,
      ],
      ["accounts, tellers, branches, history", sumsAgree ? "agree" : "DISAGREE"],
      ["apply to protected", `${(seen.readyMs / 1000).toFixed(1)} s`],
      ["standstill after the other side noticed", `${seen.standstillMs ?? "?"} ms`],
    ]);
    return isFlawless(verdicts) && lostCount === 0 && failedCount === 0 && sumsAgree;
  }

  /** Runs a command and shows both, it and what it says. */
  async #show(program: "kubectl", args: readonly string[]): Promise<void> {
    narrator.say(`$ ${program} ${args.join(" ")}`);
    const kubectl = present(requirePrograms([program]).get(program), program);
    const isPlugin = args[0] === "twinrun";
    const command = isPlugin ? [join(root, "src/main/kubectl-twinrun.sh"), ...args.slice(1)] : [kubectl, ...args];
    const child = spawn(command[0] ?? "", command.slice(1), {
      stdio: "inherit",
      env: { ...process.env, KUBECONFIG: this.#platform.lab.kubeconfigPath },
    });
    const status = await new Promise((resolve) => child.on("exit", resolve));
    if (status !== 0) {
      narrator.warn(`it ended with ${String(status)}`);
    }
  }
}

async function main(): Promise<void> {
  narrator.announce("Three nodes, a KubeVirt, and Twinrun by its chart");
  const say = (line: string): void => {
    narrator.say(line);
  };
  const platform = await startPlatform({ store: "etcd", kinds: ["debian"], say });
  const stop = (): void => {
    void platform.stop().finally(() => process.exit(130));
  };
  process.once("SIGINT", stop).once("SIGTERM", stop);
  try {
    process.exitCode = (await new Story(platform).tell()) ? 0 : 1;
  } catch (cause) {
    narrator.warn(`the demo stopped: ${cause instanceof Error ? cause.message : String(cause)}`);
    process.exitCode = 1;
  } finally {
    await platform.stop();
  }
}

await main();
