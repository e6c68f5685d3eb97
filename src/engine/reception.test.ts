import { expect, test } from "@jest/globals";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type GuestMemory } from "../memory/guest-memory.ts";
import { applyHole } from "../memory/sparse-file.ts";
import { type FrameConnection } from "../net/frame-connection.ts";
import {
  encodeDiskHashes,
  encodeDiskHashesEnd,
  type Frame,
  type FrameParts,
  WIRE_BLOCK_BYTES,
} from "../protocol/frames.ts";
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

test("what is thrown away of an epoch may come again: its state is a change of the one that is held", () => {
  const events = {
    onEpochHeld: () => undefined,
    onFailed: (why: string): void => {
      throw new Error(why);
    },
    onPressure: () => undefined,
  };
  const reception = new Reception({
    ...{ session: "2", memory: {} as unknown as GuestMemory, disks: [], isWithoutMemory: false, events },
    connection: {} as unknown as FrameConnection<Frame>,
  });
  const rawBytes = 4 * WIRE_BLOCK_BYTES;
  const totals = { pageCount: 0, diskRecords: 0, bytes: rawBytes, deviceStateBytes: rawBytes };
  const whole = new Uint8Array(rawBytes).fill(1);
  reception.take({ tag: "deviceState", epoch: 1, rawBytes, data: whole, compressed: false, payloadBytes: rawBytes });
  reception.take({ tag: "epochEnd", epoch: 1, ...totals });
  reception.commit(1);
  const change = (epoch: number, block: number): void => {
    const data = new Uint8Array(WIRE_BLOCK_BYTES).fill(epoch);
    const masks = Uint32Array.of(1 << block);
    reception.take({ tag: "stateDelta", epoch, rawBytes, masks, data, payloadBytes: WIRE_BLOCK_BYTES });
  };
  change(2, 0);
  change(3, 1);
  reception.discardStaged();
  change(2, 0);
  reception.take({ tag: "epochEnd", epoch: 2, ...totals, bytes: WIRE_BLOCK_BYTES });
  reception.commit(2);
  const state = reception.deviceState;
  expect([0, 1, 2, 3].map((block) => state?.at(block * WIRE_BLOCK_BYTES))).toEqual([2, 1, 1, 1]);
});
