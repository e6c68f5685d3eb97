/** metav1.MicroTime wants exactly six digits. */
export function encodeMicroTime(date: Date): string {
  return date.toISOString().replace("Z", "000Z");
}
