/**
 * What the demo's chapters on the lab's cluster have in common: the lab of `make lab`, a Debian with PostgreSQL and Redis under
 * protection, clients that check every answer, and a table of what they saw. A lab that runs already is used, and left as it was.
 *
 * Every command that is shown is the one that is run, so that a person can repeat it.
 */
import { writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { type ProtectedVm } from "../../src/api/protected-vm.ts";
import { present } from "../../src/lib/assert.ts";
import { type KubeObject } from "../../src/kube/kube-object.ts";
import { buildProtectedGuest, type GuestWish } from "../e2e/guest-manifests.ts";
import { Installation, tenantNamespace } from "../e2e/platform.ts";
import { type Client, startClient } from "../lab/clients/client-process.ts";
import { type PgbenchResult, runPgbench, waitForPostgres } from "../lab/clients/pgbench.ts";
import { LabClient } from "../lab/kubernetes/lab-client.ts";
import { askLab, labDirectory, type LabFacts } from "../lab/kubernetes/lab-socket.ts";
import { findLongestWait, isFlawless, stopWitnesses, sumVerdicts, type Witness } from "../lab/load.ts";
import { Narrator } from "./narrator.ts";
import { Shell } from "./shell.ts";

export const guest = "shop";
const address = "10.77.0.61";
const root = join(import.meta.dirname, "../..");
const readyMsMax = 300_000;
/** From its kernel to PostgreSQL. */
const bootMsMax = 900_000;
const bootTellMs = 30_000;
const moveMsMax = 60_000;
/** What a witness waits for a reply before it calls it lost; far above any takeover. */
const stallMs = 120_000;
export const inLab = (name: string): string => relative(root, join(labDirectory, name));

/** A row of the table in the end. */
export type Row = readonly [name: string, value: string];

/** Something that was done to the guest, and the longest wait of a client that is put down to it. */
type Incident = { readonly what: string; readonly atMs: number };

export class ClusterDemo {
  readonly narrator: Narrator;
  readonly shell: Shell;
  readonly cluster: Installation;
  readonly #client: LabClient;
  readonly #incidents: Incident[] = [];
  readonly #rows: Row[] = [];
  #witnesses: Witness[] = [];
  #pgbench: Promise<PgbenchResult> | undefined;

  constructor({ kubeconfigPath, clientNamespace }: LabFacts, narrator: Narrator, shell: Shell) {
    this.narrator = narrator;
    this.shell = shell;
    this.cluster = new Installation(kubeconfigPath);
    this.#client = new LabClient(clientNamespace);
  }

  /** Objects as a person would keep them in a file, applied from there. */
  async apply(file: string, ...objects: readonly KubeObject[]): Promise<void> {
    writeFileSync(join(labDirectory, file), objects.map((object) => stringify(object)).join("---\n"));
    await this.shell.show(`kubectl apply --filename ${inLab(file)}`);
  }

  /** Resolves when the guest is protected and PostgreSQL answers. */
  async protect(
    placement: GuestWish["placement"] = { nodes: ["node-a", "node-b"] },
    more: Pick<GuestWish, "mode" | "isVerbose"> = {},
  ): Promise<void> {
    this.narrator.announce("A guest with PostgreSQL is asked for");
    const startedAtMs = Date.now();
    await this.apply("demo.yaml", buildProtectedGuest({ name: guest, kind: "debian", address, placement, ...more }));
    await this.shell.show(
      `kubectl wait protectedvm/${guest} --namespace ${tenantNamespace} --for condition=Ready --timeout ${readyMsMax / 1000}s`,
    );
    const seconds = ((Date.now() - startedAtMs) / 1000).toFixed(1);
    this.#rows.push(["apply to protected", `${seconds} s`]);
    await this.shell.show("kubectl get protectedvms,vmi --all-namespaces");
    this.narrator.say(`protected after ${seconds} s; the guest still boots`);
    await this.waitForDatabase();
    this.narrator.say("PostgreSQL answers");
  }

  /** Tells now and then that it has not come to that yet, as a guest on a busy machine takes its time to boot. */
  async waitForDatabase(): Promise<void> {
    const startedAtMs = Date.now();
    const ticker = setInterval(() => {
      this.narrator.say(`PostgreSQL does not answer yet, after ${Math.round((Date.now() - startedAtMs) / 1000)} s`);
    }, bootTellMs);
    try {
      await waitForPostgres(this.#client, address, bootMsMax);
    } finally {
      clearInterval(ticker);
    }
  }

  /** One transaction after the other on each of its connections; in the end what was acknowledged has to be there. */
  startLedger(stallMs: number): Client {
    const base = { host: address, connectionsCount: 4, thinkMs: 50, stallMs, firstConnection: 2000 };
    // It reads them when PostgreSQL is there again.
    const options = { ...base, connectTimeoutMs: bootMsMax };
    return startClient(this.#client, "ledger", options);
  }

  /** Connections are opened once and never again. */
  async startClients(pgbenchSeconds: number): Promise<void> {
    const client = this.#client;
    const base = { host: address, connectionsCount: 4, thinkMs: 100, stallMs };
    const redis = { ...base, mode: "increment" as const, session: `witness-${Date.now()}` };
    this.#witnesses = [
      { name: "synced requests", guest, client: startClient(client, "counted", base) },
      { name: "redis increments", guest, client: startClient(client, "redis", redis) },
      { name: "postgres ledger", guest, client: startClient(client, "ledger", { ...base, firstConnection: 1000 }) },
    ];
    this.narrator.announce("pgbench works with two clients, and three more clients count every answer");
    this.#pgbench = runPgbench(client, { host: address, clientsCount: 2, durationSeconds: pgbenchSeconds });
    await sleep(10_000);
  }

  /** The guest, once it is protected. */
  readReady(): Promise<ProtectedVm> {
    return this.cluster.waitUntilReady(guest, readyMsMax);
  }

  /** The node that runs it. */
  async findPrimary(): Promise<string> {
    return (await this.readReady()).status?.primary?.node ?? "";
  }

  async waitForMove(from: string): Promise<ProtectedVm> {
    return this.cluster.waitForProtectedVm(
      guest,
      ({ status }) => status?.lastFailover !== undefined && status.primary?.node !== from,
      moveMsMax,
    );
  }

  /** From now on waits of clients are put down to this. */
  note(what: string): void {
    this.#incidents.push({ what, atMs: Date.now() });
  }

  addRow(...row: Row): void {
    this.#rows.push(row);
  }

  /** Ends the clients and shows what they saw; whether that was flawless. */
  async judge(): Promise<boolean> {
    const { lostCount, failedCount, transactionsCount, sumsAgree, tps } = await present(this.#pgbench, "pgbench");
    this.narrator.announce("The clients finish and check everything they were ever told");
    const endMs = Date.now();
    const results = await stopWitnesses(this.#witnesses);
    const verdicts = sumVerdicts(results);
    const waits = this.#incidents.map(({ what, atMs }, index): Row => {
      const wait = findLongestWait(results, guest, atMs, this.#incidents[index + 1]?.atMs ?? endMs);
      return [`longest wait for a reply: ${what}`, `${wait.toFixed(0)} ms`];
    });
    this.narrator.table("What the clients saw", [
      ["connections opened / survived", `${verdicts.connections} / ${verdicts.survived}`],
      ["replies, each checked", String(verdicts.replies)],
      ["lost / duplicated / reordered", `${verdicts.lost} / ${verdicts.duplicated} / ${verdicts.reordered}`],
      ["connections broken / wrong answers", `${verdicts.broken} / ${verdicts.wrong}`],
      ...waits,
      ["pgbench transactions lost", `${lostCount} of ${transactionsCount}, ${tps.toFixed(1)} /s`],
      ["accounts, tellers, branches, history", sumsAgree ? "agree" : "DISAGREE"],
      ...this.#rows,
    ]);
    return isFlawless(verdicts) && transactionsCount > 0 && lostCount === 0 && failedCount === 0 && sumsAgree;
  }

  close(): void {
    this.cluster.cluster.close();
  }
}

/** Tells a chapter on the lab; sets the exit status 1 when it says that something went wrong, or fails. */
export async function tellChapter(tell: (demo: ClusterDemo) => Promise<boolean>): Promise<void> {
  const narrator = new Narrator();
  const shell = new Shell(narrator, inLab("env"));
  const wasThere = await askLab(["facts"]).then(
    () => true,
    () => false,
  );
  /** Nothing stays but a lab that was there before. */
  const leave = async (): Promise<void> => {
    narrator.announce("Nothing stays");
    const forget = `kubectl delete protectedvm/${guest} --namespace ${tenantNamespace} --ignore-not-found`;
    await shell.show(wasThere ? forget : "make lab-down");
  };
  for (const [signal, number] of [
    ["SIGINT", 2],
    ["SIGTERM", 15],
  ] as const) {
    process.once(signal, () => {
      void leave().finally(() => process.exit(128 + number));
    });
  }
  let isFine = false;
  try {
    narrator.announce("Three nodes, a stand-in for KubeVirt, and Twinrun by its chart");
    await shell.show("make lab");
    narrator.say(`$ . ${inLab("env")}`);
    const demo = new ClusterDemo(JSON.parse(await askLab(["facts"])) as LabFacts, narrator, shell);
    try {
      isFine = await tell(demo);
    } finally {
      demo.close();
    }
  } catch (cause) {
    narrator.warn(`the demo stopped: ${cause instanceof Error ? cause.message : String(cause)}`);
  } finally {
    await leave();
  }
  narrator.say(isFine ? "the demo went well" : "the demo FAILED");
  process.exitCode = isFine ? 0 : 1;
}
