/** `resync`: the standby is given a whole copy once more, whatever both sides believe to have in common. */
import { FULL_RESYNC_ANNOTATION } from "../api/requests.ts";
import { confirm } from "./confirm.ts";
import { FIELD_MANAGER } from "./run-changes.ts";
import { kinds, readNamespace, readVm, type Session } from "./session.ts";

export async function runResync(session: Session): Promise<number> {
  const { cluster, terminal, call, invocation } = session;
  const [given = ""] = invocation.names;
  const namespace = await readNamespace(session);
  const { name, uid } = (await readVm(session, namespace, given)).metadata;
  await confirm(session, {
    explains: ["The guest runs on, without protection until the copy is whole."],
    asks: `Copy all of ${name} once more?`,
  });
  await cluster.patch(
    { kind: kinds.protectedVm, namespace, name },
    { metadata: { uid, annotations: { [FULL_RESYNC_ANNOTATION]: new Date().toISOString() } } },
    { ...call, fieldManager: FIELD_MANAGER },
  );
  terminal.print([`a whole copy of ${name} is asked for; follow it with: kubectl twinrun status ${name} --watch`]);
  return 0;
}
