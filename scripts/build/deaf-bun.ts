/** Variables of the environment by which Bun runs other code than what was compiled, or writes files. */
const MUST_BE_DEAF_TO = [
  'BUN_BE_BUN',
  'BUN_BYTECODE_DIGEST_OUT',
  'BUN_BYTECODE_ORDER_OUT',
  'BUN_INSPECT',
  'BUN_INSPECT_CONNECT_TO',
  'BUN_INSPECT_PRELOAD',
  'BUN_OPTIONS',
  'BUN_TRACE',
];

/** A whole C string that is the name of one of Bun's variables, as it is given to getenv(3). */
const NAMES = /(?<=\0)BUN_[A-Z0-9_]+(?=\0)/g;

/**
 * Where Bun looks among all variables for those of its JavaScript engine: it compares the letters of `BUN_JSC_` one by
 * one (`cmpb $letter, n(%r14)`, `jne next`). Of the last jump, which is taken where the last letter differs, this ends
 * before the distance.
 */
const SEARCH = new RegExp(
  [...'BUN_JSC_']
    .map((letter, index) =>
      index === 0 ? `A\x80>${letter}u` : `A\x80~${String.fromCharCode(index)}${letter}u`,
    )
    .join('[^]'),
  'g',
);
const JMP = 0xeb;

/**
 * Makes a copy of Bun's executable deaf to its environment. With `BUN_BE_BUN` or `BUN_OPTIONS` any executable that Bun
 * makes runs other code than its own, before the first line of it, and no option of the build takes that away.
 *
 * Each of the names becomes an empty one, under which getenv(3) finds nothing, and the search for the engine's variables
 * takes none for one. `process.env` is not made of these.
 *
 * @throws Error where this Bun is not made as the one that was examined
 */
export function deafened(bun: Buffer): Buffer {
  const deaf = Buffer.from(bun);
  const text = bun.toString('latin1');
  const names = [...text.matchAll(NAMES)];
  const missing = MUST_BE_DEAF_TO.filter((name) => !names.some(([found]) => found === name));
  const searches = [...text.matchAll(SEARCH)];
  const [search] = searches;
  if (missing.length > 0 || search === undefined || searches.length > 1) {
    throw new Error(
      'this Bun reads its environment in another way than the one that was examined: ' +
        `${missing.join(', ') || 'no name'} not found, ${searches.length} searches for BUN_JSC_`,
    );
  }
  for (const { index } of names) {
    deaf[index] = 0;
  }
  deaf[search.index + search[0].length - 1] = JMP;
  return deaf;
}
