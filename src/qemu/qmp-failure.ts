/** What can go wrong between this process and one QEMU, each with the sentence that says what to do about it. */
import { Failure } from "../lib/failure.ts";

export type QmpFailureDetail =
  | { readonly code: "QmpUnreachable"; readonly path: string; readonly reason: string }
  | { readonly code: "QmpClosed"; readonly command: string; readonly reason: string }
  | { readonly code: "QmpRejected"; readonly command: string; readonly class: string; readonly description: string }
  | { readonly code: "QmpTimedOut"; readonly command: string; readonly afterMs: number }
  | { readonly code: "QmpMalformed"; readonly what: string }
  | { readonly code: "CommandMissing"; readonly command: string };

export class QmpFailure extends Failure<QmpFailureDetail> {
  static unreachable(path: string, reason: string, cause?: unknown): QmpFailure {
    const remedy = "check that QEMU runs and was started with -qmp unix:PATH,server=on,wait=off";
    return new QmpFailure({ code: "QmpUnreachable", path, reason }, `no QMP monitor at ${path}: ${reason}; ${remedy}`, {
      cause,
    });
  }

  static closed(command: string, reason: string): QmpFailure {
    return new QmpFailure(
      { code: "QmpClosed", command, reason },
      `QEMU's monitor closed before ${command} was answered (${reason}); look at QEMU's own log for why it ended`,
    );
  }

  static rejected(command: string, errorClass: string, description: string): QmpFailure {
    return new QmpFailure(
      { code: "QmpRejected", command, class: errorClass, description },
      `QEMU refused ${command}: ${description}`,
    );
  }

  static timedOut(command: string, afterMs: number): QmpFailure {
    return new QmpFailure(
      { code: "QmpTimedOut", command, afterMs },
      `QEMU did not answer ${command} within ${afterMs} ms; its main loop hangs (a disk target?) or the host is overloaded`,
    );
  }

  static malformed(what: string, cause?: unknown): QmpFailure {
    return new QmpFailure(
      { code: "QmpMalformed", what },
      `the monitor sent what is not QMP: ${what}; check that the socket belongs to a QMP monitor, not a human one`,
      { cause },
    );
  }

  static commandMissing(command: string): QmpFailure {
    return new QmpFailure(
      { code: "CommandMissing", command },
      `this QEMU has no command ${command}; use a build that has it (Debian's and KubeVirt's do)`,
    );
  }
}
