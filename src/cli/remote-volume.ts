/** A volume in the cluster as a disk of blocks: the program's end of the conversation in src/protocol/volume-frames.ts. */
import { KubeFailure } from "../kube/kube-failure.ts";
import { type PodStream } from "../kube/pod-stream.ts";
import {
  decodeNumber,
  encodeNumbers,
  encodeVolumeHeader,
  VOLUME_HASH_BYTES,
  type VolumeFrame,
  VolumeFrameDecoder,
  VolumeProtocolFailure,
} from "../protocol/volume-frames.ts";
import { type BlockStore } from "./block-copy.ts";
import { CliFailure } from "./cli-failure.ts";

type Waiting = { readonly resolve: (answer: VolumeFrame) => void; readonly reject: (error: Error) => void };

/** A pod that says nothing for so long is not there any more. */
const ANSWER_MS_MAX = 120_000;

export class RemoteVolume implements BlockStore {
  readonly #stream: PodStream;
  readonly #waiting: Waiting[] = [];
  readonly #decoder = new VolumeFrameDecoder();
  #sending: Promise<void> = Promise.resolve();
  #failure: Error | undefined;
  #silence: NodeJS.Timeout | undefined;
  bytes = 0;
  isEmpty = false;

  private constructor(stream: PodStream) {
    this.#stream = stream;
    stream.onOutput((part) => {
      this.#take(part);
    });
    stream.ended
      .catch((error: unknown) => error)
      .then(
        (error) => {
          this.#fail(error ?? new VolumeProtocolFailure("the pod has ended the conversation"));
        },
        () => undefined,
      );
  }

  /** `bytes`: how long a file is made at least; 0 leaves it as it is. */
  static async open(stream: PodStream, bytes: number): Promise<RemoteVolume> {
    const volume = new RemoteVolume(stream);
    const answer = await volume.#ask({ type: "open", offset: 0, payload: encodeNumbers(bytes) });
    volume.bytes = decodeNumber(answer, 0);
    volume.isEmpty = decodeNumber(answer, 1) === 0;
    return volume;
  }

  async hash(offset: number, count: number): Promise<readonly Buffer[]> {
    const { payload } = await this.#ask({ type: "hash", offset, payload: encodeNumbers(count) });
    const all = Buffer.from(payload.buffer, payload.byteOffset, payload.length);
    return Array.from({ length: all.length / VOLUME_HASH_BYTES }, (_, index) =>
      all.subarray(index * VOLUME_HASH_BYTES, (index + 1) * VOLUME_HASH_BYTES),
    );
  }

  async read(offset: number, bytes: number): Promise<Uint8Array> {
    return (await this.#ask({ type: "read", offset, payload: encodeNumbers(bytes) })).payload;
  }

  async write(offset: number, content: Uint8Array): Promise<void> {
    await this.#ask({ type: "write", offset, payload: content });
  }

  async flush(): Promise<void> {
    await this.#ask({ type: "flush", offset: 0, payload: new Uint8Array(0) });
  }

  async close(): Promise<void> {
    clearTimeout(this.#silence);
    await this.#stream.end();
  }

  /** Without waiting for anything. */
  abandon(): void {
    clearTimeout(this.#silence);
    this.#stream.close();
  }

  #ask(question: VolumeFrame): Promise<VolumeFrame> {
    if (this.#failure !== undefined) {
      return Promise.reject(this.#failure);
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#listen();
      this.#sending = this.#sending
        .then(() => this.#stream.write(encodeVolumeHeader(question)))
        .then(() => this.#stream.write(question.payload))
        .catch((error: unknown) => {
          this.#fail(error);
        });
    });
  }

  #listen(): void {
    clearTimeout(this.#silence);
    if (this.#waiting.length > 0) {
      this.#silence = setTimeout(() => {
        const says = `the pod has not answered for ${ANSWER_MS_MAX / 1_000} s`;
        this.#fail(new KubeFailure({ code: "TimedOut", afterMs: ANSWER_MS_MAX }, says));
        this.#stream.close();
      }, ANSWER_MS_MAX);
    }
  }

  #take(part: Buffer): void {
    try {
      for (const frame of this.#decoder.push(part)) {
        if (frame.type === "failed") {
          throw new CliFailure(
            "Failed",
            `the pod that holds the volume says: ${Buffer.from(frame.payload).toString()}`,
          );
        }
        this.#waiting.shift()?.resolve(frame);
        this.#listen();
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(error: unknown): void {
    this.#failure ??= error instanceof Error ? error : new Error(String(error));
    clearTimeout(this.#silence);
    for (const { reject } of this.#waiting.splice(0)) {
      reject(this.#failure);
    }
  }
}
