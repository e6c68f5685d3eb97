/** Counting bits of 32-bit words, as masks and bitsets need it. */

/** Bits that are set in one word. */
export function countBits(word: number): number {
  const pairs = word - ((word >>> 1) & 0x5555_5555);
  const nibbles = (pairs & 0x3333_3333) + ((pairs >>> 2) & 0x3333_3333);
  return Math.imul((nibbles + (nibbles >>> 4)) & 0x0f0f_0f0f, 0x0101_0101) >>> 24;
}

/** Bits that are set in all words. */
export function countSetBits(words: Uint32Array): number {
  let count = 0;
  for (const word of words) {
    count += countBits(word);
  }
  return count;
}

/** Zero bits below the lowest that is set; 0 for a word without one. */
export function countTrailingZeros(word: number): number {
  return word === 0 ? 0 : Math.clz32(word & -word) ^ 31;
}
