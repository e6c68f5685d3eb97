/**
 * Where assignments come from.
 *
 * Contract: `onAssignments` gets the complete set each time it changes, starting with the first good one; never an empty
 * set because something could not be read. `onProblem` gets a sentence when the newest version cannot be used, and
 * undefined once it can.
 */
import { type GuestAssignment } from "../protocol/assignment.ts";

export interface AssignmentSource {
  watch(listener: AssignmentListener): void;
  close(): void;
}

export type AssignmentListener = {
  onAssignments(assignments: readonly GuestAssignment[]): void;
  onProblem(problem: string | undefined): void;
};
