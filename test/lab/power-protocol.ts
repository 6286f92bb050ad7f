import { connect } from 'node:net';
import type { Deadline } from '../../lib/deadline.ts';
import { KvmhaError } from '../../lib/error.ts';

/** What the power switch does with a node, and with the lab. One line asks, one line answers. */
export const NODE_ACTIONS = ['on', 'off', 'reboot', 'cut', 'heal', 'status'] as const;
export type NodeAction = (typeof NODE_ACTIONS)[number];

export type Request = `${NodeAction} ${string}` | 'list' | 'quit';

/**
 * Asks the power switch that listens on `socket`.
 *
 * @returns what it answered behind "ok"
 * @throws KvmhaError `unreachable` when nobody listens, `program-failed` with the switch's words when it could
 *   not, `protocol` when it hung up, `deadline`
 */
export async function askPower(socket: string, request: Request, deadline: Deadline): Promise<string> {
  const connection = connect(socket);
  try {
    const answer = new Promise<string>((resolve, reject) => {
      let text = '';
      connection.setEncoding('utf8');
      connection.on('connect', () => connection.write(`${request}\n`));
      connection.on('data', (chunk: string) => {
        text += chunk;
      });
      connection.on('end', () => resolve(text));
      connection.on('error', (cause) =>
        reject(new KvmhaError('unreachable', `no power switch answers on ${socket}`, { cause })),
      );
    });
    const [, verdict, words] =
      /^(ok|error)(?: (.*))?\n$/.exec(await deadline.race(answer, `"${request}"`)) ?? [];
    if (verdict === undefined) {
      throw new KvmhaError('protocol', `the power switch hung up on "${request}"`);
    }
    if (verdict === 'error') {
      throw new KvmhaError('program-failed', `the power switch could not "${request}": ${words}`);
    }
    return words ?? '';
  } finally {
    connection.destroy();
  }
}
