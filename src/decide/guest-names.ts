/** Names that are made from a ProtectedVM and stay the same for ever, whoever works them out. */
import { sha256 } from "../lib/sha256.ts";

const NAME_LENGTH_MAX = 63;

/** What agents, engines and the quorum call the guest. The uid is in it, so that it is never used for another. */
export function guestNameOf(name: string, uid: string): string {
  return `${shorten(name, NAME_LENGTH_MAX - 9)}-${uid.replaceAll("-", "").slice(0, 8)}`;
}

/** Of the Lease that holds the quorum's record of a guest, where records are Leases and the guest's name is one of an object. */
export const recordLeaseName = (guest: string): string => `guest-${guest}`;

/** Six digits that tell one side's objects from the other's, and from those of the same name in another namespace. */
export const sideMark = (uid: string, node: string): string => sha256(uid + node).slice(0, 6);

export const sideName = (name: string, mark: string): string => `${shorten(name, NAME_LENGTH_MAX - 7)}-${mark}`;

/** A name has to end with a letter or digit. */
const shorten = (name: string, length: number): string => name.slice(0, length).replace(/[-.]+$/, "");

/** In the form of a UUID of version 5. */
export function uuidOf(text: string): string {
  const digits = sha256(text);
  const variant = ((parseInt(digits.slice(16, 17), 16) & 0x3) | 0x8).toString(16);
  return [
    digits.slice(0, 8),
    digits.slice(8, 12),
    `5${digits.slice(13, 16)}`,
    variant + digits.slice(17, 20),
    digits.slice(20, 32),
  ].join("-");
}

/** A locally administered address of one station. */
export function macOf(uid: string, interfaceName: string): string {
  const digits = sha256(`${uid}/${interfaceName}`);
  return ["02", ...[0, 2, 4, 6, 8].map((at) => digits.slice(at, at + 2))].join(":");
}
