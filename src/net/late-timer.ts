/**
 * Calls `onOver` when `afterMs` have passed and what came until then has been read: timers come before sockets in a turn of the
 * event loop, so that after a moment in which this process was held up an answer that is there would seem to be missing.
 * Returns what calls it off.
 */
export function startLateTimer(afterMs: number, onOver: () => void): () => void {
  let turn: NodeJS.Immediate | undefined;
  const timer = setTimeout(() => {
    turn = setImmediate(onOver);
  }, afterMs);
  return () => {
    clearTimeout(timer);
    clearImmediate(turn);
  };
}
