import { expect, test } from "@jest/globals";
import { type GuestOnUplink, planUplinkHandOver } from "./uplink-hand-over.ts";

const calm: GuestOnUplink = { guest: "web", isProtectedPrimary: true, peerUplinksUp: true, askedBeforeMs: Infinity };

test.each<{ when: string; downForMs?: number; guest?: Partial<GuestOnUplink>; goes: boolean }>([
  { when: "its uplink is down and the peer's is up", goes: true },
  { when: "every uplink is up", downForMs: 0, goes: false },
  { when: "the uplink flapped", downForMs: 499, goes: false },
  { when: "the peer's uplink is down as well", guest: { peerUplinksUp: false }, goes: false },
  { when: "the peer's agent is silent", guest: { peerUplinksUp: undefined }, goes: false },
  { when: "it is not in sync, or not the primary", guest: { isProtectedPrimary: false }, goes: false },
  { when: "it was asked a moment ago", guest: { askedBeforeMs: 9_999 }, goes: false },
  { when: "it was asked long ago", guest: { askedBeforeMs: 10_000 }, goes: true },
])("when $when: goes $goes", ({ downForMs = 500, guest, goes }) => {
  expect(planUplinkHandOver({ downForMs, guests: [{ ...calm, ...guest }] })).toEqual(goes ? ["web"] : []);
});
