/** Whether a standby can run what the primary runs. */
import { type MachineShape, type RefusalCode } from "./messages.ts";

export type ShapeRefusal = { readonly code: RefusalCode; readonly message: string };

/** Undefined when it can; else the first thing that differs and what to do. */
export function compareShapes(primary: MachineShape, standby: MachineShape): ShapeRefusal | undefined {
  if (primary.machine !== standby.machine) {
    const says = `machine type is ${primary.machine} on the primary and ${standby.machine} on the standby`;
    return { code: "MachineMismatch", message: `${says}: start both with the same versioned machine type` };
  }
  if (primary.qemuVersion !== standby.qemuVersion) {
    const says = `QEMU is ${primary.qemuVersion} on the primary and ${standby.qemuVersion} on the standby`;
    return {
      code: "MachineMismatch",
      message: `${says}: device state is only safe between equal versions; upgrade one`,
    };
  }
  return compareRam(primary, standby) ?? compareDevices(primary, standby) ?? compareDisks(primary, standby);
}

function compareRam(primary: MachineShape, standby: MachineShape): ShapeRefusal | undefined {
  const differs = primary.ramBlocks.find((block, index) => {
    const other = standby.ramBlocks[index];
    return other?.name !== block.name || other.bytes !== block.bytes;
  });
  if (differs === undefined && primary.ramBlocks.length === standby.ramBlocks.length) {
    return undefined;
  }
  const name = differs?.name ?? standby.ramBlocks[primary.ramBlocks.length]?.name ?? "";
  const bytes = (side: MachineShape): string =>
    side.ramBlocks.find((block) => block.name === name)?.bytes.toString() ?? "no";
  const says = `RAM block ${name} has ${bytes(primary)} bytes on the primary and ${bytes(standby)} on the standby`;
  return { code: "RamMismatch", message: `${says}: give both sides the same memory and devices` };
}

/** Somebody plugged one into a side that runs, or out of it, or started the two differently. */
function compareDevices(primary: MachineShape, standby: MachineShape): ShapeRefusal | undefined {
  const countOf = ({ devices }: MachineShape, wanted: string): number =>
    devices.find(({ model }) => model === wanted)?.count ?? 0;
  const differs = [...primary.devices, ...standby.devices].find(
    ({ model }) => countOf(primary, model) !== countOf(standby, model),
  );
  if (differs === undefined) {
    return undefined;
  }
  const [here, there] = [countOf(primary, differs.model), countOf(standby, differs.model)];
  const says = `the guest has ${here.toString()} devices ${differs.model}, the standby's QEMU ${there.toString()}`;
  const remedy = "plug in nothing while it runs: take out what was, or start the guest anew";
  return { code: "MachineMismatch", message: `${says}; ${remedy}` };
}

function compareDisks(primary: MachineShape, standby: MachineShape): ShapeRefusal | undefined {
  for (const disk of primary.disks) {
    const other = standby.disks.find((candidate) => candidate.id === disk.id);
    if (other === undefined) {
      return { code: "DiskTooSmall", message: `the standby has no disk ${disk.id}: add it to its assignment` };
    }
    if (other.bytes !== null && other.bytes < (disk.bytes ?? 0)) {
      const says = `disk ${disk.id} has ${String(disk.bytes)} bytes, the standby's only ${other.bytes.toString()}`;
      return { code: "DiskTooSmall", message: `${says}: enlarge the standby's volume` };
    }
  }
  return findUncopied(primary, standby);
}

/** What the guest writes there would be lost with the primary, and nobody would know of it before. */
function findUncopied(primary: MachineShape, standby: MachineShape): ShapeRefusal | undefined {
  const uncopied = standby.disks.find(({ id }) => !primary.disks.some((disk) => disk.id === id));
  return uncopied === undefined
    ? undefined
    : {
        code: "MachineMismatch",
        message: `the primary does not copy disk ${uncopied.id}, which the standby has: assign both the same disks`,
      };
}
