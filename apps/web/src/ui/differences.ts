/** Words for how far pictures are apart; bit for bit only where they are. */

import type { Difference } from "./pixels";

const OTHERS = "Other processors and engines round differently.";

/** Of one picture or of several; null is one that has another size. */
export function describeDifferences(found: readonly (Difference | null)[]): string {
  const known = found.filter((one): one is Difference => one !== null);
  if (known.length < found.length) {
    return `The sizes differ, so ${found.length > 1 ? "these are not the same pictures" : "this is not the same picture"}.`;
  }
  const different = known.reduce((sum, one) => sum + one.different, 0);
  const values = known.reduce((sum, one) => sum + one.values, 0);
  const largest = Math.max(...known.map((one) => one.largest));
  const several = found.length > 1 ? ` of ${found.length} pictures` : "";
  if (different === 0) return `Bit for bit the same: all ${values} values${several} are equal.`;
  const share = `${different} of ${values} values${several} differ, by at most ${largest} of 255`;
  return largest <= 1 ? `The same to the eye: ${share}. ${OTHERS}` : `Not the same: ${share}.`;
}

export const describeDifference = (found: Difference | null): string => describeDifferences([found]);
