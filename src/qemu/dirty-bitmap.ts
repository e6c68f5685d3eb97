/**
 * Which parts of a disk the guest has written since some moment, noted by QEMU: a bitmap on the disk's node.
 *
 * Bitmaps live as long as that QEMU. They are named `twinrun-NAME`, so that those of other software are left alone; one
 * that is there already is taken over as it is. They are for the time in which no engine runs: a mirror tells a running
 * engine of each write, but one that restarts has nothing else to learn from what was written meanwhile.
 */
import { type QmpClient } from "./qmp-client.ts";

const PREFIX = "twinrun-";
/** 2 MiB of bitmap for each TiB of disk. */
const GRANULARITY_BYTES = 64 * 1024;

export class DirtyBitmap {
  readonly #qmp: QmpClient;
  readonly #place: { readonly node: string; readonly name: string };

  private constructor(qmp: QmpClient, place: { readonly node: string; readonly name: string }) {
    this.#qmp = qmp;
    this.#place = place;
  }

  /** `node` is the disk's own node name: a -drive's name would mean a mirror's filter while there is one. */
  static async open(qmp: QmpClient, node: string, name: string): Promise<DirtyBitmap> {
    const place = { node, name: PREFIX + name };
    const bitmap = new DirtyBitmap(qmp, place);
    if ((await bitmap.#find()) === undefined) {
      await qmp.execute("block-dirty-bitmap-add", { ...place, granularity: GRANULARITY_BYTES });
    }
    return bitmap;
  }

  /** Bytes noted, in whole granules. */
  async dirtyBytes(): Promise<number> {
    return (await this.#find())?.count ?? 0;
  }

  async clear(): Promise<void> {
    await this.#qmp.execute("block-dirty-bitmap-clear", this.#place);
  }

  async remove(): Promise<void> {
    await this.#qmp.execute("block-dirty-bitmap-remove", this.#place);
  }

  async #find(): Promise<{ readonly count: number } | undefined> {
    const nodes = await this.#qmp.execute("query-named-block-nodes", { flat: true });
    const node = nodes.find((each) => each["node-name"] === this.#place.node);
    return node?.["dirty-bitmaps"]?.find(({ name }) => name === this.#place.name);
  }
}
