/** A guest that QEMU ends because it crashed is not taken over: at its other side it would be in the same state. */
import { test } from "@jest/globals";
import { tellGuest } from "../../lab/guest-acts.ts";
import { expectEnd, patienceMs, tellOfGuest } from "../guest-story.ts";

test.each([
  { what: "tells a panic device that its kernel panics", act: "panic", devices: ["panic"] },
  { what: "is powered off by its watchdog", act: "hang", devices: ["watchdog"] },
] as const)(
  "a guest that $what ends on both sides, and on none starts again",
  async ({ act, devices }) => {
    await tellOfGuest({ options: { devices } }, async (story) => {
      await tellGuest(story.lab, story.guest, act);
      await expectEnd(story);
    });
  },
  2 * patienceMs,
);
