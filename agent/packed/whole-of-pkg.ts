import type { runAs as runAsWhole } from '../whole.ts';
import { runPacked } from './script.ts';

/** Stands for whole.ts in the binary that pkg makes, and loads it only when it is called. */
export const runAs: typeof runAsWhole = (...call) =>
  runPacked<{ readonly runAs: typeof runAsWhole }>('whole').runAs(...call);
