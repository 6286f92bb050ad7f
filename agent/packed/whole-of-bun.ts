import type { runAs as runAsWhole } from '../whole.ts';

/** Stands for whole.ts in the binary that Bun makes, and loads it only when it is called. */
export const runAs: typeof runAsWhole = (...call) =>
  (require('./whole.cjs') as { readonly runAs: typeof runAsWhole }).runAs(...call);
