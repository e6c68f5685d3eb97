/** The containers that KubeVirt asks before it starts a guest, as an annotation names them. */
export const HOOK_ANNOTATION = "hooks.kubevirt.io/hookSidecars";

export function listHookSidecars(annotations: Readonly<Record<string, string>>): readonly unknown[] {
  try {
    const parsed: unknown = JSON.parse(annotations[HOOK_ANNOTATION] ?? "[]");
    return Array.isArray(parsed) ? parsed : [];
  } catch {
    return []; // KubeVirt refuses it in words of its own.
  }
}
