/** `faults`: what failed of protected VMs, and `faults clear`: that it may be used again. */
import { isMeantBy } from "../decide/component-faults.ts";
import { CliFailure, usageWrong } from "./cli-failure.ts";
import { confirm } from "./confirm.ts";
import { encodeFaults, listFaultColumns, listFaults, type ShownFault, writeRemedies } from "./faults-view.ts";
import { encodeOutput } from "./output.ts";
import { type ShownVm } from "./protected-vms.ts";
import { sendRequest } from "./run-changes.ts";
import { readNamespace, readScope, readVm, readVms, type Session } from "./session.ts";
import { writeTable } from "./table.ts";

/** The first word that is no name of a protected VM. */
export const CLEAR_WORD = "clear";

export async function runFaults(session: Session): Promise<number> {
  const [word, ...names] = session.invocation.names;
  return word === CLEAR_WORD ? clearFaults(session, names) : showFaults(session);
}

async function showFaults(session: Session): Promise<number> {
  const { invocation, terminal } = session;
  const namespace = await readScope(session);
  const shown = listFaults(await readVms(session, namespace));
  const output = invocation.texts.get("output");
  if (output === "json" || output === "yaml") {
    terminal.print([encodeOutput(encodeFaults(shown), output)]);
  } else if (shown.length === 0) {
    terminal.say(`Nothing has failed${namespace === undefined ? "" : ` in namespace ${namespace}; -A looks in all`}.`);
  } else {
    printFaults(session, shown, { withNamespace: namespace === undefined, isWide: output === "wide" });
  }
  return 0;
}

function printFaults(
  { invocation, terminal }: Session,
  shown: readonly ShownFault[],
  table: { readonly withNamespace: boolean; readonly isWide: boolean },
): void {
  const headless = invocation.switches.has("no-headers");
  const columns = listFaultColumns({ ...table, withName: true, nowMs: Date.now() });
  terminal.print(writeTable(columns, shown, { paint: terminal.paint, headless }));
  if (!table.isWide && !headless) {
    terminal.print(writeRemedies(shown));
  }
}

async function clearFaults(session: Session, [name, what = "all", ...more]: readonly string[]): Promise<number> {
  if (name === undefined || more.length > 0) {
    throw usageWrong("faults clear needs one NAME, and takes one COMPONENT, NODE or NODE/COMPONENT");
  }
  if (session.invocation.switches.has("all-namespaces")) {
    throw usageWrong("faults clear is for one protected VM: leave out --all-namespaces");
  }
  const vm = await readVm(session, await readNamespace(session), name);
  await confirm(session, { explains: explainClear(vm, what), asks: "Use it again?" });
  return sendRequest(session, vm, { tag: "clear", what });
}

/** Throws Refused where there is nothing that it could mean. */
export function explainClear(vm: ShownVm, what: string): readonly string[] {
  const faults = vm.status?.faults ?? [];
  const meant = faults.filter((fault) => isMeantBy(what, fault));
  const listNames = (records: typeof faults): string =>
    [...new Set(records.map(({ node, component }) => `${node}/${component}`))].join(", ");
  if (meant.length === 0) {
    const has = faults.length === 0 ? "nothing of it has failed" : `what failed of it is ${listNames(faults)}`;
    throw new CliFailure("Refused", `${vm.metadata.name} has no ${what === "all" ? "fault" : what} to clear: ${has}`);
  }
  const isOut = meant.some(({ repairedAt }) => repairedAt === undefined);
  return [
    `What failed before of ${listNames(meant)} does not count any more: a new copy of the guest may be made there at once.`,
    ...(isOut ? ["Some of it does not work yet; see: kubectl twinrun faults"] : []),
  ];
}
