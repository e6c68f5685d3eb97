/** What a guest of HighAvailability does to itself is its own affair as well. */
import { expect, test } from "@jest/globals";
import { tellGuest } from "../../lab/guest-acts.ts";
import { expectEnd, patienceMs, tellOfGuest, waitForBoots } from "../guest-story.ts";

test(
  "it reboots where it is, and ends on both sides when it switches itself off",
  async () => {
    await tellOfGuest({ mode: "HighAvailability" }, async (story) => {
      const { lab, cluster, guest } = story;
      await tellGuest(lab, guest, "reboot");
      await waitForBoots(guest, 2);
      const [view] = await cluster.waitUntilProtected(patienceMs);
      expect(view?.primary).toBe("a");
      await tellGuest(lab, guest, "poweroff");
      await expectEnd(story, 2);
    });
  },
  3 * patienceMs,
);
