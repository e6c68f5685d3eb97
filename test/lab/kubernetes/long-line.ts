/** A node's port behind a wire of some length (slow-wire.ts): what the switch has of the port is then the wire's near end. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { runBatch } from "../hosts.ts";

export class LongLine {
  readonly #wire: ChildProcess;

  private constructor(wire: ChildProcess) {
    this.#wire = wire;
  }

  /** `port` is the bridge port of that name, `bridge` the one it belongs to. Frames on their way are lost. */
  static async open(namespace: string, port: string, bridge: string): Promise<LongLine> {
    const { far, yard } = namesOf(port);
    runBatch(namespace, [
      `link set ${port} down`,
      `link set ${port} nomaster`,
      `link set ${port} name ${farPortOf(port)}`,
      `link add ${yard} type bridge stp_state 0 mcast_snooping 0`,
      `link set ${yard} up`,
      `link set ${farPortOf(port)} master ${yard}`,
      `link set ${farPortOf(port)} up`,
    ]);
    // A wire is never late because somebody computes; it needs little itself.
    const onTime = ["chrt", "--other", "0", "nice", "--adjustment=-20"];
    const program = [process.execPath, join(import.meta.dirname, "slow-wire.ts"), port, far];
    const wire = spawn("ip", ["netns", "exec", namespace, ...onTime, ...program], {
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    await once(wire, "message");
    runBatch(namespace, [
      `link set ${far} master ${yard}`,
      `link set ${far} up`,
      `link set ${port} master ${bridge}`,
      `link set ${port} up`,
    ]);
    return new LongLine(wire);
  }

  /** Of one direction. */
  setDelay(ms: number): void {
    this.#wire.send(ms);
  }

  close(): void {
    this.#wire.disconnect();
  }
}

/** What the node's own end is called, once its port is the wire. */
export const farPortOf = (port: string): string => `${port}-f`;

const namesOf = (port: string): { readonly far: string; readonly yard: string } => ({
  far: `${port}-t`,
  yard: yardOf(port),
});

/** The bridge between the wire and the node. */
export const yardOf = (port: string): string => `${port}-y`;
