import { planRamBlocks, type PlacedBlock, type NotedMapping } from "../memory/ram-blocks.ts";
import { type QmpClient } from "../qemu/qmp-client.ts";
import { readMachineType } from "../qemu/standby.ts";

export type Machine = {
  readonly qemuVersion: string;
  readonly type: string;
  readonly runState: string;
  readonly ramBlocks: readonly PlacedBlock[];
};

export async function inspectMachine(
  qmp: QmpClient,
  options: { readonly pid: number; readonly mappings: readonly NotedMapping[] },
): Promise<Machine> {
  const { status } = await qmp.execute("query-status", {});
  const text = (await qmp.execute("human-monitor-command", { "command-line": "info ramblock" })) as string;
  const listed = text.split("\n").flatMap((line) => {
    const match = /^\s*(\S+)\s+(\d+)\s+KiB\s+(0x[0-9a-f]+)\s+(0x[0-9a-f]+)\s+(0x[0-9a-f]+)/.exec(line);
    return match === null ? [] : [{ name: match[1] ?? "", offset: Number(match[3]), bytes: Number(match[5]) }];
  });
  const placed = planRamBlocks(listed, options.mappings).filter(
    ({ name }) => !/rom|bios/.test(name) || name.startsWith("/rom@"),
  );
  const { major, minor, micro } = qmp.version;
  return {
    qemuVersion: `${major}.${minor}.${micro}`,
    type: await readMachineType(qmp),
    runState: status,
    ramBlocks: placed,
  };
}
