/** `status`, `describe` and `events`: what is to be seen. */
import { writeDescription } from "./describe-view.ts";
import { listEventColumns, sortEvents } from "./event-view.ts";
import { isAbout, listEvents, listSubjects } from "./events.ts";
import { followObjects } from "./follow.ts";
import { type KubeEvent, keyOf } from "./kube-objects.ts";
import { encodeObjects, encodeOutput, type ObjectForm } from "./output.ts";
import { type ShownVm } from "./protected-vms.ts";
import {
  ask,
  askPair,
  kinds,
  readNamespace,
  readScope,
  readVm,
  readVms,
  type Session,
  sortObjects,
} from "./session.ts";
import { listStatusColumns } from "./status-view.ts";
import { type Column, measureTable, writeTable } from "./table.ts";

const formOf = ({ invocation }: Session): ObjectForm | undefined => {
  const output = invocation.texts.get("output");
  return output === "json" || output === "yaml" ? output : undefined;
};

export async function runStatus(session: Session): Promise<number> {
  const namespace = await readScope(session);
  const { invocation, terminal } = session;
  if (invocation.switches.has("watch")) {
    await watchStatus(session, namespace);
    return 0;
  }
  const vms = await readVms(session, namespace);
  const form = formOf(session);
  if (form !== undefined) {
    terminal.print([encodeOutput(encodeObjects(vms, invocation.names.length === 1), form)]);
  } else if (invocation.texts.get("output") === "name") {
    terminal.print(vms.map(({ metadata }) => `protectedvm.twinrun.dev/${metadata.name}`));
  } else {
    printStatus(session, vms, namespace);
  }
  return 0;
}

function printStatus(session: Session, vms: readonly ShownVm[], namespace: string | undefined): void {
  const { terminal, invocation } = session;
  if (vms.length === 0) {
    const where = namespace === undefined ? "in any namespace" : `in namespace ${namespace}; -A shows all namespaces`;
    terminal.say(`No protected VMs ${where}.`);
    return;
  }
  terminal.print(
    writeTable(listColumns(session, namespace, Date.now()), vms, {
      paint: terminal.paint,
      headless: invocation.switches.has("no-headers"),
    }),
  );
}

const listColumns = (
  { invocation }: Session,
  namespace: string | undefined,
  nowMs: number,
): readonly Column<ShownVm>[] =>
  listStatusColumns({
    withNamespace: namespace === undefined,
    isWide: invocation.texts.get("output") === "wide",
    nowMs,
  });

/** A line for each change that is to be seen in it; ages alone are none. */
async function watchStatus(session: Session, namespace: string | undefined): Promise<void> {
  const { terminal, invocation } = session;
  const isWanted = ({ metadata }: ShownVm): boolean =>
    invocation.names.length === 0 || invocation.names.includes(metadata.name);
  const startedMs = Date.now();
  const shown = new Map<string, string>();
  let widths: readonly number[] = [];
  let headless = invocation.switches.has("no-headers");
  const show = (vms: readonly ShownVm[]): void => {
    const form = formOf(session);
    if (form !== undefined) {
      terminal.print(vms.map((vm) => (form === "yaml" ? "---\n" : "") + encodeOutput(encodeObjects([vm], true), form)));
      return;
    }
    const columns = listColumns(session, namespace, Date.now());
    widths = measureTable(columns, vms, widths);
    terminal.print(writeTable(columns, vms, { paint: terminal.paint, headless, widths }));
    headless = true;
  };
  const isNews = (vm: ShownVm): boolean => {
    const text = writeTable(listColumns(session, namespace, startedMs), [vm], { headless: true }).join();
    const before = shown.get(keyOf(vm));
    shown.set(keyOf(vm), text);
    return before !== text || formOf(session) !== undefined;
  };
  await followObjects<ShownVm>(session, {
    ...{ kind: kinds.protectedVm, scope: { namespace } },
    onFirst: (vms) => {
      const first = sortObjects(vms.filter(isWanted));
      first.forEach(isNews);
      if (first.length > 0) {
        show(first);
      }
    },
    onChange: ({ key, after }) => {
      if (after === undefined) {
        if (shown.delete(key)) {
          terminal.say(`${key} is gone`);
        }
      } else if (isWanted(after) && isNews(after)) {
        show([after]);
      }
    },
  });
}

export async function runDescribe(session: Session): Promise<number> {
  const [name = ""] = session.invocation.names;
  const vm = await readVm(session, await readNamespace(session), name);
  const [pair, events] = await Promise.all([askPair(session, vm), ask(listEvents(session, [vm]))]);
  session.terminal.print(writeDescription({ vm, pair, events, nowMs: Date.now() }, session.terminal.paint));
  return 0;
}

export async function runEvents(session: Session): Promise<number> {
  const namespace = await readScope(session);
  const vms = await readVms(session, namespace);
  if (session.invocation.switches.has("watch")) {
    await watchEvents(session, namespace, vms);
    return 0;
  }
  const events = sortEvents(await listEvents(session, vms));
  const form = formOf(session);
  if (form !== undefined) {
    session.terminal.print([encodeOutput(encodeObjects(events, false), form)]);
  } else if (events.length === 0) {
    session.terminal.say(
      "No events of protected VMs. (Kubernetes forgets events after an hour, unless told otherwise.)",
    );
  } else {
    printEvents(session, events, { namespace, headless: session.invocation.switches.has("no-headers") });
  }
  return 0;
}

type EventStyle = {
  readonly namespace: string | undefined;
  readonly headless: boolean;
  readonly widths?: readonly number[];
};

/** Returns the widths, for more of the same table. */
function printEvents({ terminal }: Session, events: readonly KubeEvent[], style: EventStyle): readonly number[] {
  const { namespace, headless, widths = [] } = style;
  const columns = listEventColumns({ withNamespace: namespace === undefined, withObject: true, nowMs: Date.now() });
  const wider = measureTable(columns, events, widths);
  terminal.print(writeTable(columns, events, { paint: terminal.paint, headless, widths: wider }));
  return wider;
}

/**
 * Of the namespace of the ProtectedVMs, or of all: events of a standby or a GuestPair elsewhere are followed only with -A. Whose
 * sides have moved meanwhile is asked anew at each event.
 */
async function watchEvents(session: Session, namespace: string | undefined, vms: readonly ShownVm[]): Promise<void> {
  const { invocation } = session;
  const current = new Map(vms.map((vm) => [keyOf(vm), vm]));
  let widths: readonly number[] | undefined;
  const show = (events: readonly KubeEvent[]): void => {
    const subjects = listSubjects([...current.values()], session.systemNamespace);
    const wanted = sortEvents(events.filter((event) => isAbout(event, subjects)));
    if (wanted.length === 0) {
      return;
    }
    const form = formOf(session);
    if (form !== undefined) {
      session.terminal.print(wanted.map((event) => encodeOutput(encodeObjects([event], true), form)));
      return;
    }
    const headless = widths !== undefined || invocation.switches.has("no-headers");
    widths = printEvents(session, wanted, { namespace, headless, ...(widths === undefined ? {} : { widths }) });
  };
  const followVms = followObjects<ShownVm>(session, {
    ...{ kind: kinds.protectedVm, scope: { namespace } },
    onFirst: () => undefined,
    onChange: ({ key, after }) => {
      const isWanted = invocation.names.length === 0 || invocation.names.includes(after?.metadata.name ?? "");
      if (after !== undefined && isWanted) {
        current.set(key, after);
      }
    },
  });
  const followEvents = followObjects<KubeEvent>(session, {
    ...{ kind: kinds.event, scope: { namespace } },
    onFirst: show,
    onChange: ({ after }) => {
      if (after !== undefined) {
        show([after]);
      }
    },
  });
  await Promise.all([followVms, followEvents]);
}
