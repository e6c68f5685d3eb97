/**
 * Argo CD's health of Twinrun's objects, by the Lua that config/argocd gives it, in a Lua of this machine (Debian: lua5.4). Skipped
 * where there is none: another language would only test itself. Argo CD runs the same with gopher-lua, which is a Lua 5.1.
 */
import { describe, expect, test } from "@jest/globals";
import { healthOf, lua } from "../build/argocd-health.ts";

type Json = Readonly<Record<string, unknown>>;

if (lua === undefined) {
  process.stderr.write("SKIPPED in argocd.test.ts: there is no Lua (Debian: apt-get install lua5.4)\n");
}

const metadata = { name: "web", generation: 2 };
const condition = (type: string, status: string, reason: string): Json => ({
  type,
  status,
  reason,
  message: `${reason}.`,
});
const settled = condition("Stalled", "False", "NotStalled");

(lua === undefined ? describe.skip : describe)("Argo CD shows", () => {
  test.each<[string, Json, string]>([
    ["a new one", {}, "Progressing: the operator has not looked at it yet"],
    [
      "a changed one",
      { status: { observedGeneration: 1, conditions: [condition("Ready", "True", "Protected")] } },
      "Progressing: the operator has not looked at the newest spec yet",
    ],
    [
      "one being made",
      { status: { conditions: [condition("Ready", "False", "Creating"), settled] } },
      "Progressing: Creating.",
    ],
    [
      "one being copied",
      { status: { conditions: [condition("Ready", "False", "Synchronising"), settled] } },
      "Progressing: Synchronising.",
    ],
    [
      "a protected one",
      { status: { observedGeneration: 2, conditions: [condition("Ready", "True", "Protected"), settled] } },
      "Healthy: Protected.",
    ],
    [
      "one alone",
      { status: { conditions: [condition("Ready", "False", "Unprotected"), settled] } },
      "Degraded: Unprotected.",
    ],
    [
      "one that does not run",
      { status: { conditions: [condition("Ready", "False", "NotRunning")] } },
      "Degraded: NotRunning.",
    ],
    [
      "one that waits for a person",
      {
        status: { conditions: [condition("Ready", "False", "Stalled"), condition("Stalled", "True", "NodesMissing")] },
      },
      "Degraded: NodesMissing.",
    ],
    [
      "one being deleted",
      { metadata: { ...metadata, deletionTimestamp: "2026-01-31T08:30:00Z" }, status: { conditions: [settled] } },
      "Progressing: the pair is being taken apart",
    ],
  ])("of ProtectedVMs %s", (_what, object, health) => {
    expect(healthOf("ProtectedVM", { metadata, ...object })).toBe(health);
  });

  test.each<[string, Json, string]>([
    ["a new one", {}, "Progressing: no agent has reported yet"],
    [
      "a protected one",
      {
        status: {
          sides: [
            { node: "b", role: "standby", state: "ready" },
            { node: "a", role: "primary", state: "protected" },
          ],
        },
      },
      "Healthy: a runs it: protected",
    ],
    [
      "one alone",
      { status: { sides: [{ node: "a", role: "primary", state: "alone" }] } },
      "Progressing: a runs it: alone",
    ],
    [
      "one in trouble",
      { status: { sides: [{ node: "a", role: "starting", state: "starting", trouble: "no shim" }] } },
      "Degraded: a: no shim",
    ],
  ])("of GuestPairs %s", (_what, object, health) => {
    expect(healthOf("GuestPair", { metadata, ...object })).toBe(health);
  });
});
