import { readFileSync } from 'node:fs';

/** What the binary under test is built with (RUNTIME in the Makefile). */
export const RUNTIME: string = readFileSync(new URL('../../build/.runtime', import.meta.url), 'utf8').trim();

/** Variables by which an executable of Bun's runs other code, writes files or opens a debugger, if it heeds them. */
export const DANGEROUS_FOR_BUN = {
  BUN_BE_BUN: '1',
  BUN_OPTIONS: '--preload=/var/tmp/script',
  BUN_INSPECT: '127.0.0.1:9229',
  BUN_INSPECT_PRELOAD: '/var/tmp/script',
  BUN_BYTECODE_ORDER_OUT: '/var/tmp/ran',
  BUN_BYTECODE_DIGEST_OUT: '/var/tmp/ran',
  BUN_TRACE: '/var/tmp/ran',
  BUN_JSC_configFile: '/var/tmp/script',
  BUN_JSC_noSuchOption: '1',
};
