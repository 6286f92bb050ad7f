import type { ActionContext } from './context.ts';

export async function updateUtilization(_context: ActionContext): Promise<void> {}
