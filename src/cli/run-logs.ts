/** `logs`: collects a support bundle. What may not be read is left out and said. */
import { createWriteStream } from "node:fs";
import { GUEST_LABEL } from "../api/vmi-contract.ts";
import { KubeFailure } from "../kube/kube-failure.ts";
import { type ResourceKind } from "../kube/kube-object.ts";
import { type Collected, type CollectedLog, listBundleFiles } from "./bundle.ts";
import { CliFailure } from "./cli-failure.ts";
import { isForGuest, listEvents } from "./events.ts";
import { writeFindings } from "./findings.ts";
import { type KubeEvent, type KubeObject, type Pod, valueOr } from "./kube-objects.ts";
import { plainPaint } from "./paint.ts";
import { type ShownVm } from "./protected-vms.ts";
import { OURS, readClusterFacts } from "./read-facts.ts";
import { listFaultColumns, listFaults } from "./faults-view.ts";
import { encodeReport, examine } from "./run-doctor.ts";
import { ask, kinds, listObjects, readNamespace, readVms, type Session } from "./session.ts";
import { writeTable } from "./table.ts";
import { encodeTar } from "./tar.ts";

const TAIL_LINES = 10_000;

type Plan = {
  readonly kind: ResourceKind;
  readonly scope?: { readonly namespace?: string; readonly labelSelector?: string };
  readonly isWanted?: (object: KubeObject) => boolean;
};

export async function runLogs(session: Session): Promise<number> {
  const { invocation, terminal, ownVersion } = session;
  const now = new Date();
  const vms = await chooseVms(session);
  terminal.showProgress("reading objects");
  const collected = await Promise.all(listPlans(session, vms).map((plan) => collect(session, plan)));
  const events: Collected = await collectEvents(session, vms);
  const troubles: string[] = [];
  const pods = collected.find(({ plural }) => plural === kinds.pod.plural)?.objects ?? [];
  const logs = await readLogs(session, pods, troubles);
  terminal.showProgress("asking the doctor");
  const facts = await readClusterFacts(session, { readsSecrets: false });
  const groups = await examine(session, facts, { tag: "known", value: vms });
  const stamp = now.toISOString().replaceAll(/[-:]|\..*/g, "");
  const root = `twinrun-support-${stamp}`;
  const doctor = { text: `${writeFindings(groups, plainPaint, true).join("\n")}\n`, report: encodeReport(groups) };
  const columns = listFaultColumns({ withNamespace: true, withName: true, isWide: true, nowMs: now.getTime() });
  const faults = `${writeTable(columns, listFaults(vms)).join("\n")}\n`;
  const files = listBundleFiles({
    ...{ root, faults, madeAt: now.toISOString(), ownVersion, logs, doctor, troubles },
    collected: mergeKinds([...collected, events]),
  });
  const path = invocation.texts.get("file") ?? `${root}.tar`;
  await writeBundle(session, path, encodeTar(files, now.getTime()));
  terminal.say(`${files.length} files in ${path === "-" ? "the tar" : path}; look through it before you send it`);
  return 0;
}

/** Of the namespace or of those that were named; of all where nothing was said and all may be seen. */
async function chooseVms(session: Session): Promise<readonly ShownVm[]> {
  const { texts, names } = session.invocation;
  if (names.length > 0 || texts.has("namespace")) {
    return readVms(session, await readNamespace(session));
  }
  const all = await ask(readVms(session, undefined));
  return all.tag === "unknown" ? readVms(session, await readNamespace(session)) : valueOr(all, []);
}

/** Secret is not among the kinds, and never will be. */
function listPlans({ systemNamespace: namespace }: Session, vms: readonly ShownVm[]): readonly Plan[] {
  const ours = { namespace, labelSelector: OURS };
  const guests = new Set(vms.flatMap(({ status }) => status?.guest ?? []));
  const keys = new Set(vms.map(({ metadata }) => `${metadata.namespace ?? ""}/${metadata.name}`));
  const machines = new Set(
    vms.map(({ metadata, spec }) => `${metadata.namespace ?? ""}/${spec?.virtualMachineRef?.name ?? ""}`),
  );
  const isOfGuest = (object: KubeObject): boolean =>
    isForGuest(object) &&
    guests.has(object.metadata.labels?.[GUEST_LABEL] ?? object.metadata.annotations?.[GUEST_LABEL] ?? "");
  const ofGuests = { labelSelector: GUEST_LABEL };
  return [
    { kind: kinds.node },
    { kind: kinds.kubevirt },
    { kind: kinds.storageClass },
    { kind: kinds.protectedVm, isWanted: ({ metadata }) => keys.has(`${metadata.namespace ?? ""}/${metadata.name}`) },
    { kind: kinds.guestPair, scope: { namespace }, isWanted: ({ metadata }) => guests.has(metadata.name) },
    {
      kind: kinds.virtualMachine,
      isWanted: ({ metadata }) => machines.has(`${metadata.namespace ?? ""}/${metadata.name}`),
    },
    { kind: kinds.vmi, scope: ofGuests, isWanted: isOfGuest },
    { kind: kinds.claim, scope: ofGuests, isWanted: isOfGuest },
    { kind: kinds.dataVolume, scope: ofGuests, isWanted: isOfGuest },
    { kind: kinds.deployment, scope: ours },
    { kind: kinds.daemonSet, scope: ours },
    { kind: kinds.statefulSet, scope: ours },
    { kind: kinds.pod, scope: ours },
    { kind: kinds.service, scope: ours },
    { kind: kinds.endpointSlice, scope: { namespace } },
    { kind: kinds.lease, scope: { namespace } },
    { kind: kinds.pod, scope: ofGuests, isWanted: isOfGuest },
  ];
}

async function collect(session: Session, { kind, scope, isWanted = () => true }: Plan): Promise<Collected> {
  const found = await ask(listObjects(session, kind, scope));
  if (found.tag === "known") {
    return { plural: kind.plural, objects: found.value.filter(isWanted) };
  }
  return {
    plural: kind.plural,
    objects: [],
    missing: found.tag === "absent" ? "the cluster does not know it" : found.why,
  };
}

/** Of the guests, and all of the system namespace. */
async function collectEvents(session: Session, vms: readonly ShownVm[]): Promise<Collected> {
  const [ofGuests, ofSystem] = await Promise.all([
    ask(listEvents(session, vms)),
    ask(listObjects<KubeEvent>(session, kinds.event, { namespace: session.systemNamespace })),
  ]);
  const all = [...valueOr(ofGuests, []), ...valueOr(ofSystem, [])];
  const objects = [...new Map(all.map((event) => [event.metadata.uid, event])).values()];
  const missing = [ofGuests, ofSystem].flatMap((fact) => (fact.tag === "unknown" ? [fact.why] : []));
  return {
    plural: kinds.event.plural,
    objects,
    ...(missing.length > 0 && objects.length === 0 ? { missing: missing.join("; ") } : {}),
  };
}

/** Two lists of pods become one. */
function mergeKinds(collected: readonly Collected[]): readonly Collected[] {
  const plurals = [...new Set(collected.map(({ plural }) => plural))];
  return plurals.map((plural) => {
    const same = collected.filter((each) => each.plural === plural);
    const missing = same.find((each) => each.missing !== undefined)?.missing;
    const objects = same.flatMap((each) => each.objects);
    return { plural, objects, ...(missing === undefined ? {} : { missing }) };
  });
}

/** One container after the other: a bundle is in no hurry, and the kubelets have other work. */
async function readLogs(session: Session, pods: readonly Pod[], troubles: string[]): Promise<readonly CollectedLog[]> {
  const logs: CollectedLog[] = [];
  for (const pod of pods) {
    for (const { container, previous } of listContainers(pod)) {
      session.terminal.showProgress(`reading the log of ${pod.metadata.name}/${container}`);
      const text = await readLog(session, pod, { container, previous }, troubles);
      if (text !== undefined) {
        const { namespace = "", name } = pod.metadata;
        logs.push({ namespace, pod: name, container, previous, text });
      }
    }
  }
  return logs;
}

type LogOf = { readonly container: string; readonly previous: boolean };

/** The life before is asked for only where there was one. */
function listContainers({ spec, status }: Pod): readonly LogOf[] {
  const names = [...(spec?.initContainers ?? []), ...(spec?.containers ?? [])].map(({ name }) => name);
  return names.flatMap((container) => {
    const restarts = status?.containerStatuses?.find(({ name }) => name === container)?.restartCount ?? 0;
    return [{ container, previous: false }, ...(restarts > 0 ? [{ container, previous: true }] : [])];
  });
}

async function readLog(
  { cluster, invocation, call }: Session,
  { metadata: { namespace, name } }: Pod,
  { container, previous }: LogOf,
  troubles: string[],
): Promise<string | undefined> {
  const sinceMs = invocation.numbers.get("since");
  const query = {
    ...{ container, previous, timestamps: true },
    tailLines: invocation.numbers.get("tail") ?? TAIL_LINES,
    sinceSeconds: sinceMs === undefined ? undefined : Math.max(1, Math.ceil(sinceMs / 1_000)),
  };
  try {
    return await cluster.readText({ kind: kinds.pod, namespace, name }, "log", query, call);
  } catch (error) {
    if (error instanceof KubeFailure && error.detail.code !== "Aborted") {
      troubles.push(`log of ${name}/${container}: ${error.message}`);
      return undefined;
    }
    throw error;
  }
}

async function writeBundle({ terminal }: Session, path: string, content: Buffer): Promise<void> {
  if (path === "-") {
    await terminal.write(content);
    return;
  }
  await new Promise<void>((resolve, reject) => {
    // Only for its owner: redaction is by guess.
    createWriteStream(path, { mode: 0o600 })
      .on("error", (cause) => {
        reject(
          new CliFailure("Failed", `${path} cannot be written (${cause.message}); name another with --file`, { cause }),
        );
      })
      .end(content, resolve);
  });
}
