/** Why an image is not taken: what it is, and what its owner can do about it. */
import { Failure } from "../lib/failure.ts";

export type ImageFailureCode =
  /** It is in a form that is not taken. */
  | "FormatRefused"
  /** It names other files, whose content would become the guest's. */
  | "RefersToFiles"
  /** It is larger, or becomes larger, than a limit. */
  | "TooLarge"
  /** It is cut off, damaged or contradicts itself. */
  | "Damaged";

export class ImageFailure extends Failure<{ readonly code: ImageFailureCode }> {
  constructor(code: ImageFailureCode, message: string, options?: { readonly cause?: unknown }) {
    super({ code }, message, options);
  }
}
