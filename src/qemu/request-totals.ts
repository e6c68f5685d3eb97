/** How many requests each disk of a guest has answered, and how long they took together, since its QEMU was started. */
import { type QmpClient } from "./qmp-client.ts";

export type RequestTotals = {
  /** Of a -drive; empty else. */
  readonly device: string;
  readonly node: string | undefined;
  readonly count: number;
  readonly totalMs: number;
};

/**
 * Reads and writes, with the time of the flushes beside them: those cost next to nothing on some disks and everything on others. Of
 * a mirrored disk a write has ended when it is at the mirror's target as well.
 */
export async function readRequestTotals(qmp: QmpClient): Promise<readonly RequestTotals[]> {
  const all = await qmp.execute("query-blockstats", {});
  return all.map(({ device = "", "node-name": node, stats }) => ({
    device,
    node,
    count: stats.rd_operations + stats.wr_operations,
    totalMs: (stats.rd_total_time_ns + stats.wr_total_time_ns + stats.flush_total_time_ns) / 1e6,
  }));
}
