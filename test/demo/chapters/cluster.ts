/**
 * `make demo`: a Kubernetes of three nodes on this machine, Twinrun installed by its chart, a Debian with PostgreSQL and Redis under
 * protection, and the node it runs on loses its power. Exit status 1 when a client saw anything wrong.
 *
 * Every command that is shown is the one that is run, so that a person can repeat it. The lab is that of `make lab`; one that runs
 * already is used, and left as it was.
 */
import { writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { present } from "../../../src/lib/assert.ts";
import { buildProtectedGuest } from "../../e2e/guest-manifests.ts";
import { Installation, tenantNamespace } from "../../e2e/platform.ts";
import { startClient } from "../../lab/clients/client-process.ts";
import { type PgbenchResult, runPgbench, waitForPostgres } from "../../lab/clients/pgbench.ts";
import { askLab, labDirectory, type LabFacts } from "../../lab/kubernetes/lab-socket.ts";
import { LabClient } from "../../lab/kubernetes/lab-client.ts";
import { findLongestWait, isFlawless, stopWitnesses, sumVerdicts, type Witness } from "../../lab/load.ts";
import { Narrator } from "../narrator.ts";
import { Shell } from "../shell.ts";

const root = join(import.meta.dirname, "../../..");
const guest = "shop";
const address = "10.77.0.61";
const readyMsMax = 300_000;
const takeoverMsMax = 60_000;
/** What a witness waits for a reply before it calls it lost; far above any takeover. */
const stallMs = 120_000;
const narrator = new Narrator();
const inLab = (name: string): string => relative(root, join(labDirectory, name));
const shell = new Shell(narrator, inLab("env"));

class Story {
  readonly #cluster: Installation;
  readonly #client: LabClient;

  constructor({ kubeconfigPath, clientNamespace }: LabFacts) {
    this.#cluster = new Installation(kubeconfigPath);
    this.#client = new LabClient(clientNamespace);
  }

  async tell(): Promise<boolean> {
    const readyMs = await this.#protect();
    const witnesses = this.#startWitnesses();
    narrator.announce("pgbench works with two clients, and three more clients count every answer");
    const pgbench = runPgbench(this.#client, { host: address, clientsCount: 2, durationSeconds: 45 });
    await sleep(10_000);
    const lost = (await this.#cluster.waitUntilReady(guest)).status?.primary?.node ?? "";
    const strikeAtMs = Date.now();
    narrator.announce(`Power off: ${lost}, on which the guest runs`);
    await shell.show(`make lab-power-off NODE=${lost}`);
    const after = await this.#cluster.waitForProtectedVm(
      guest,
      ({ status }) => status?.lastFailover !== undefined && status.primary?.node !== lost,
      takeoverMsMax,
    );
    const { durationMs, cause } = present(after.status?.lastFailover, "a failover");
    narrator.say(`${after.status?.primary?.node ?? ""} goes on: ${cause}`);
    await shell.show(`kubectl get protectedvms --namespace ${tenantNamespace}`);
    await sleep(5_000);
    narrator.announce(`${lost} gets its power back, and the guest its second copy`);
    await shell.show(`make lab-power-on NODE=${lost}`);
    await sleep(2_000);
    await this.#cluster.waitUntilReady(guest, readyMsMax);
    await shell.show(`kubectl twinrun status --namespace ${tenantNamespace}`);
    const result = await pgbench;
    narrator.announce("The clients finish and check everything they were ever told");
    const results = await stopWitnesses(witnesses);
    const waitMs = findLongestWait(results, guest, strikeAtMs, strikeAtMs + takeoverMsMax);
    return this.#judge({ results, result, readyMs, standstillMs: durationMs, waitMs });
  }

  close(): void {
    this.#cluster.cluster.close();
  }

  /** Milliseconds from apply to Ready. */
  async #protect(): Promise<number> {
    narrator.announce("A guest with PostgreSQL is asked for");
    const manifest = buildProtectedGuest({
      ...{ name: guest, kind: "debian", address },
      placement: { nodes: ["node-a", "node-b"] },
    });
    writeFileSync(join(labDirectory, "demo.yaml"), stringify(manifest));
    const startedAtMs = Date.now();
    await shell.show(`kubectl apply --filename ${inLab("demo.yaml")}`);
    await shell.show(
      `kubectl wait protectedvm/${guest} --namespace ${tenantNamespace} --for condition=Ready --timeout ${readyMsMax / 1000}s`,
    );
    const readyMs = Date.now() - startedAtMs;
    await shell.show("kubectl get protectedvms,vmi --all-namespaces");
    narrator.say(`protected after ${(readyMs / 1000).toFixed(1)} s; the guest still boots`);
    await waitForPostgres(this.#client, address, readyMsMax);
    narrator.say("PostgreSQL answers");
    return readyMs;
  }

  /** They open their connections once and never again. */
  #startWitnesses(): Witness[] {
    const client = this.#client;
    const base = { host: address, connectionsCount: 4, thinkMs: 100, stallMs };
    const session = `witness-${Date.now()}`;
    return [
      { name: "synced requests", guest, client: startClient(client, "counted", base) },
      {
        name: "redis increments",
        guest,
        client: startClient(client, "redis", { ...base, mode: "increment", session }),
      },
      { name: "postgres ledger", guest, client: startClient(client, "ledger", { ...base, firstConnection: 1000 }) },
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
    return isFlawless(verdicts) && transactionsCount > 0 && lostCount === 0 && failedCount === 0 && sumsAgree;
  }
}

/** Nothing stays but a lab that was there before. */
async function leave(wasThere: boolean): Promise<void> {
  narrator.announce("Nothing stays");
  await shell.show(
    wasThere
      ? `kubectl delete protectedvm/${guest} --namespace ${tenantNamespace} --ignore-not-found`
      : "make lab-down",
  );
}

async function main(): Promise<boolean> {
  const wasThere = await askLab(["facts"]).then(
    () => true,
    () => false,
  );
  for (const [signal, number] of [
    ["SIGINT", 2],
    ["SIGTERM", 15],
  ] as const) {
    process.once(signal, () => {
      void leave(wasThere).finally(() => process.exit(128 + number));
    });
  }
  try {
    narrator.announce("Three nodes, a stand-in for KubeVirt, and Twinrun by its chart");
    await shell.show("make lab");
    narrator.say(`$ . ${inLab("env")}`);
    const story = new Story(JSON.parse(await askLab(["facts"])) as LabFacts);
    try {
      return await story.tell();
    } finally {
      story.close();
    }
  } catch (cause) {
    narrator.warn(`the demo stopped: ${cause instanceof Error ? cause.message : String(cause)}`);
    return false;
  } finally {
    await leave(wasThere);
  }
}

const isFine = await main();
narrator.say(isFine ? "the demo went well" : "the demo FAILED");
process.exitCode = isFine ? 0 : 1;
