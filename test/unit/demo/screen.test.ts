import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FalseClaim, Screen } from '../../demo/screen.ts';

const ESCAPE = '\u001b';

function shown(
  use: (screen: Screen) => void,
  how: { isTTY?: boolean; columns?: number; noColour?: string } = {},
) {
  let text = '';
  const screen = new Screen({
    write: (part) => {
      text += part;
    },
    isTTY: how.isTTY ?? false,
    columns: how.columns,
    environment: { NO_COLOR: how.noColour },
  });
  use(screen);
  return { text };
}

test('a claim is shown, and one that does not hold ends what it is made for', () => {
  const { text } = shown((each) => {
    each.claim('it is so', true, 'unused');
    each.moment(1234, 'it has come', 1234);
    assert.throws(() => each.claim('it is so, too', false, 'it is not'), FalseClaim);
    assert.throws(() => each.moment(undefined, 'it comes'), FalseClaim);
    assert.throws(() => each.moment(10, 'it comes later', 11), FalseClaim);
  });
  assert.equal(
    text,
    `\
    true  it is so
 +1.23 s  it has come
   FALSE  it is so, too (it is not)
   FALSE  it comes (it has not happened)
   FALSE  it comes later (after 0.01 s, which is too early)
`,
  );
});

test('a table is shown as it is, below the rest', () => {
  assert.equal(shown((each) => each.lines('a   b\n1   2\n')).text, '          a   b\n          1   2\n');
});

test('there is colour on a terminal only, and none where it is not wanted', () => {
  const use = (screen: Screen) => screen.claim('yes', true);
  assert.ok(!shown(use).text.includes(ESCAPE));
  assert.ok(shown(use, { isTTY: true }).text.includes(`${ESCAPE}[32m`));
  assert.ok(!shown(use, { isTTY: true, noColour: '1' }).text.includes(ESCAPE));
  assert.ok(shown(use, { isTTY: true, noColour: '' }).text.includes(ESCAPE));
});

test('long text goes on in the next line, below its beginning', () => {
  const { text } = shown((screen) => screen.detail('word '.repeat(20)), { columns: 60 });
  const lines = text.trimEnd().split('\n');
  assert.equal(lines.length, 2);
  assert.ok(lines.every((line) => line.startsWith('          word') && line.length <= 60));
});

test('what a guest or a program says cannot control the terminal', () => {
  assert.equal(shown((screen) => screen.detail('a\u001b[2Jb\r\nc')).text, '          a [2Jb c\n');
});
