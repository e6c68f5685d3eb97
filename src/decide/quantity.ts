/** Quantities as Kubernetes writes them: 10Gi, 1500m, 2e9. */
const FACTORS: Readonly<Record<string, number>> = {
  "": 1,
  m: 1e-3,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
};

/** Undefined for what is no quantity. */
export function parseQuantity(text: string): number | undefined {
  const match = /^([0-9]+(?:[.][0-9]+)?(?:[eE][0-9]+)?)([A-Za-z]*)$/.exec(text);
  const factor = FACTORS[match?.[2] ?? "?"];
  return match === null || factor === undefined ? undefined : Number(match[1]) * factor;
}
