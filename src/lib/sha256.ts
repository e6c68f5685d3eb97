/**
 * SHA-256 of a text (FIPS 180-4), for names that are made from other names in folders that may not use Node's crypto.
 * Not for secrets: it makes no attempt to take the same time for every input.
 */
const ROUNDS = 64;
const constants = listConstants();

/** 64 hexadecimal digits. */
export function sha256(text: string): string {
  const words = pad(new TextEncoder().encode(text));
  const state = Uint32Array.from(constants.initial);
  for (let at = 0; at < words.length; at += 16) {
    compress(state, words.subarray(at, at + 16));
  }
  return [...state].map((word) => word.toString(16).padStart(8, "0")).join("");
}

/** The bytes, one bit, zeros, and the length in bits, as big-endian words. */
function pad(bytes: Uint8Array): Uint32Array {
  const words = new Uint32Array(((bytes.length + 8) >> 6) * 16 + 16);
  bytes.forEach((byte, index) => {
    words[index >> 2] = at(words, index >> 2) | (byte << (24 - (index & 3) * 8));
  });
  words[bytes.length >> 2] = at(words, bytes.length >> 2) | (0x80 << (24 - (bytes.length & 3) * 8));
  words[words.length - 1] = bytes.length * 8;
  return words;
}

function compress(state: Uint32Array, block: Uint32Array): void {
  const schedule = new Uint32Array(ROUNDS);
  schedule.set(block);
  for (let index = 16; index < ROUNDS; index += 1) {
    const [early, late] = [at(schedule, index - 15), at(schedule, index - 2)];
    const low = rotate(early, 7) ^ rotate(early, 18) ^ (early >>> 3);
    const high = rotate(late, 17) ^ rotate(late, 19) ^ (late >>> 10);
    schedule[index] = at(schedule, index - 16) + low + at(schedule, index - 7) + high;
  }
  const work = Uint32Array.from(state);
  for (let index = 0; index < ROUNDS; index += 1) {
    mix(work, at(schedule, index) + at(constants.rounds, index));
  }
  work.forEach((word, index) => {
    state[index] = at(state, index) + word;
  });
}

function mix(work: Uint32Array, input: number): void {
  const [a, b, c, e, f, g] = [at(work, 0), at(work, 1), at(work, 2), at(work, 4), at(work, 5), at(work, 6)];
  const sum1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
  const first = (at(work, 7) + sum1 + ((e & f) ^ (~e & g)) + input) >>> 0;
  const sum0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
  const second = (sum0 + ((a & b) ^ (a & c) ^ (b & c))) >>> 0;
  work.copyWithin(1, 0, 7);
  work[4] = at(work, 4) + first;
  work[0] = first + second;
}

const rotate = (word: number, by: number): number => (word >>> by) | (word << (32 - by));
const at = (words: Uint32Array, index: number): number => words[index] ?? 0;

/** The first bits of the fractions of roots of primes. */
function listConstants(): { readonly initial: Uint32Array; readonly rounds: Uint32Array } {
  const primes: number[] = [];
  for (let candidate = 2; primes.length < ROUNDS; candidate += 1) {
    if (primes.every((prime) => candidate % prime !== 0)) {
      primes.push(candidate);
    }
  }
  const fraction = (root: number): number => Math.floor((root - Math.floor(root)) * 0x1_0000_0000);
  return {
    initial: Uint32Array.from(primes.slice(0, 8), (prime) => fraction(Math.sqrt(prime))),
    rounds: Uint32Array.from(primes, (prime) => fraction(Math.cbrt(prime))),
  };
}
