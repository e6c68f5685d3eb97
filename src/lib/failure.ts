/**
 * An expected error: typed by `detail.code`, with a sentence for people in `message` that names the remedy.
 *
 * A bug is not a Failure (see assert.ts) and neither is bad input from a user of the API (that becomes a condition).
 */
export class Failure<Detail extends { readonly code: string }> extends Error {
  readonly detail: Detail;

  constructor(detail: Detail, message: string, options?: { readonly cause?: unknown }) {
    super(message, options);
    this.name = detail.code;
    this.detail = detail;
  }
}
