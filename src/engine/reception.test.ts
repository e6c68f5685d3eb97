import { expect, test } from "@jest/globals";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type GuestMemory } from "../memory/guest-memory.ts";
import { applyHole } from "../memory/sparse-file.ts";
import { type FrameConnection } from "../net/frame-connection.ts";
import { encodeDiskHashes, encodeDiskHashesEnd, type Frame, type FrameParts } from "../protocol/frames.ts";
import { GRANULE_BYTES } from "./dirty-map.ts";
import { hashGranule } from "./primary-disks.ts";
import { Reception } from "./reception.ts";
import { StandbyDisk } from "./standby-disk.ts";

const hexOf = (parts: FrameParts): string => Buffer.concat(parts).toString("hex");

test("what an earlier session left to be written is in the hashes of the next one", async () => {
  const directory = mkdtempSync(join(tmpdir(), "twinrun-reception-"));
  const path = join(directory, "disk.raw");
  const granules = 64;
  writeFileSync(path, Buffer.alloc(granules * GRANULE_BYTES, 1));
  const disk = await StandbyDisk.open({ id: "disk", path }, applyHole);
  try {
    const sent: string[] = [];
    const said = new Promise<void>((resolve, reject) => {
      const connection = {
        send: (parts: FrameParts): void => {
          sent.push(hexOf(parts));
          if (sent.length === 2) {
            resolve();
          }
        },
        drained: () => Promise.resolve(),
      } as unknown as FrameConnection<Frame>;
      const events = { onEpochHeld: () => undefined, onFailed: reject, onPressure: () => undefined };
      const parts = {
        session: "2",
        memory: {} as unknown as GuestMemory,
        disks: [disk],
        connection,
        isWithoutMemory: false,
      };
      const reception = new Reception({ ...parts, events });
      // The first granule is the last to be written, and they are no run.
      for (let granule = granules - 1; granule >= 0; granule -= 1) {
        disk.write(granule * GRANULE_BYTES, Buffer.alloc(GRANULE_BYTES, 2));
      }
      reception.take({ tag: "diskHashesWanted", disk: 0, granuleBytes: GRANULE_BYTES });
    });
    await said;
    const hash = hashGranule(Buffer.alloc(GRANULE_BYTES, 2));
    const all = Buffer.concat(Array.from({ length: granules }, () => hash));
    expect(sent).toEqual([hexOf(encodeDiskHashes(0, 0, all)), hexOf(encodeDiskHashesEnd(0))]);
  } finally {
    await disk.close();
    rmSync(directory, { recursive: true });
  }
});
