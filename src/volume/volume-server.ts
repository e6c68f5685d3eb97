/** The pod's end of the conversation in src/protocol/volume-frames.ts: answers until the questions end. */
import { type Readable, type Writable } from "node:stream";
import {
  decodeNumber,
  encodeNumbers,
  encodeVolumeHeader,
  HASHED_BLOCKS_MAX,
  VOLUME_BLOCK_BYTES,
  type VolumeFrame,
  VolumeFrameDecoder,
  VolumeProtocolFailure,
} from "../protocol/volume-frames.ts";
import { RawVolume } from "./raw-volume.ts";

export type VolumeServing = {
  readonly path: string;
  readonly access: "read" | "write";
  readonly input: Readable;
  readonly output: Writable;
  /** Called at every question. */
  readonly onQuestion: () => void;
};

/** Resolves to true when the other end has ended the conversation, to false when it had to be told of a failure. */
export async function serveVolume({ path, access, input, output, onQuestion }: VolumeServing): Promise<boolean> {
  const decoder = new VolumeFrameDecoder();
  const server = new VolumeServer(path, access);
  try {
    for await (const part of input) {
      for (const question of decoder.push(part as Buffer)) {
        onQuestion();
        const payload = await server.answer(question);
        await send(output, { ...question, payload });
      }
    }
    return true;
  } catch (error) {
    const says = error instanceof Error ? error.message : String(error);
    await send(output, { type: "failed", offset: 0, payload: Buffer.from(says.slice(0, 4_096)) });
    return false;
  } finally {
    await server.close();
  }
}

async function send(output: Writable, frame: VolumeFrame): Promise<void> {
  output.write(encodeVolumeHeader(frame));
  await new Promise<void>((resolve, reject) => {
    output.write(frame.payload, (error) => {
      if (error === undefined || error === null) {
        resolve();
      } else {
        reject(error);
      }
    });
  });
}

const NOTHING = new Uint8Array(0);

class VolumeServer {
  readonly #path: string;
  readonly #access: "read" | "write";
  #volume: RawVolume | undefined;

  constructor(path: string, access: "read" | "write") {
    this.#path = path;
    this.#access = access;
  }

  async answer(question: VolumeFrame): Promise<Uint8Array> {
    if (question.type === "open") {
      this.#volume = await RawVolume.open(this.#path, this.#access, decodeNumber(question, 0));
      return encodeNumbers(this.#volume.bytes, this.#volume.allocatedBytes);
    }
    if (this.#volume === undefined) {
      throw new VolumeProtocolFailure("the volume was not opened");
    }
    return answerOpened(this.#volume, question);
  }

  async close(): Promise<void> {
    await this.#volume?.close();
  }
}

async function answerOpened(volume: RawVolume, question: VolumeFrame): Promise<Uint8Array> {
  const { type, offset, payload } = question;
  switch (type) {
    case "hash":
      return hashBlocks(volume, offset, Math.min(HASHED_BLOCKS_MAX, decodeNumber(question, 0)));
    case "read":
      return volume.read(offset, Math.min(VOLUME_BLOCK_BYTES, decodeNumber(question, 0)));
    case "write":
      await volume.write(offset, payload);
      return NOTHING;
    case "flush":
      await volume.flush();
      return NOTHING;
    case "open":
    case "failed":
      throw new VolumeProtocolFailure(`${type} is no question here`);
  }
}

async function hashBlocks(volume: RawVolume, offset: number, count: number): Promise<Buffer> {
  const hashes: Buffer[] = [];
  for (let at = offset; hashes.length < count && at < volume.bytes; at += VOLUME_BLOCK_BYTES) {
    hashes.push(await volume.hash(at, VOLUME_BLOCK_BYTES));
  }
  return Buffer.concat(hashes);
}
