/** Reads events: of a ProtectedVM, of the VirtualMachineInstances of its sides and of its GuestPair. */
import { type ShownVm } from "./protected-vms.ts";
import { type KubeEvent, type KubeObject } from "./kube-objects.ts";
import { GUEST_LABEL, vmiAnnotations } from "../api/vmi-contract.ts";
import { kinds, listObjects, type Session } from "./session.ts";

type Subject = { readonly kind: string; readonly namespace: string; readonly name: string };

/** Whose events are its events. */
export function listSubjects(vms: readonly ShownVm[], systemNamespace: string): readonly Subject[] {
  return vms.flatMap(({ metadata, status, spec }) => {
    const namespace = metadata.namespace ?? "";
    const vm = spec?.virtualMachineRef?.name;
    const sides = [status?.primary, status?.standby].filter((side) => side !== undefined);
    return [
      { kind: "ProtectedVM", namespace, name: metadata.name },
      ...(vm === undefined ? [] : [{ kind: "VirtualMachine", namespace, name: vm }]),
      ...sides.map((side) => ({ kind: "VirtualMachineInstance", ...side.vmi })),
      ...(status?.guest === undefined ? [] : [{ kind: "GuestPair", namespace: systemNamespace, name: status.guest }]),
    ];
  });
}

export const isAbout = ({ regarding }: KubeEvent, subjects: readonly Subject[]): boolean =>
  subjects.some(
    ({ kind, namespace, name }) =>
      regarding?.kind === kind && regarding.name === name && (regarding.namespace ?? namespace) === namespace,
  );

/** Namespaces that may not be read are left out: a tenant sees those of the own namespace. */
export async function listEvents(session: Session, vms: readonly ShownVm[]): Promise<readonly KubeEvent[]> {
  const subjects = listSubjects(vms, session.systemNamespace);
  const own = new Set(vms.map(({ metadata }) => metadata.namespace ?? ""));
  const namespaces = [...new Set(subjects.map(({ namespace }) => namespace))];
  const lists = await Promise.all(
    namespaces.map((namespace) => {
      const events = listObjects<KubeEvent>(session, kinds.event, { namespace });
      return own.has(namespace) ? events : events.catch(() => []);
    }),
  );
  return lists.flat().filter((event) => isAbout(event, subjects));
}

/** Whether an object was made for a guest. */
export const isForGuest = ({ metadata }: KubeObject): boolean =>
  metadata.labels?.[GUEST_LABEL] !== undefined || metadata.annotations?.[vmiAnnotations.guest] !== undefined;
