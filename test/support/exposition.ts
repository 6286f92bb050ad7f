import assert from 'node:assert/strict';

/** One sample, with its labels in their order. */
export interface ReadSample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface ReadFamily {
  readonly help: string;
  readonly type: string;
  readonly samples: readonly ReadSample[];
}

/**
 * Reads Prometheus' text format by its rules, and fails where one is broken: every line ends, HELP and TYPE come once
 * and before the samples of their name, those stand together, no series is there twice, and there are no times.
 */
export function readExposition(text: string): Map<string, ReadFamily> {
  assert.ok(text === '' || text.endsWith('\n'), 'the last line must end with a line feed');
  const families = new Map<string, { help: string; type: string; samples: ReadSample[] }>();
  const series = new Set<string>();
  let current = '';
  for (const line of text.split('\n').slice(0, -1)) {
    const help = /^# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) (.*)$/s.exec(line);
    const type = /^# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge|histogram|summary|untyped)$/.exec(line);
    if (help !== null) {
      current = help[1] ?? '';
      assert.ok(!families.has(current), `two families ${current}`);
      families.set(current, { help: unescaped(help[2] ?? '', '\\n'), type: '', samples: [] });
    } else if (type !== null) {
      assert.equal(type[1], current, 'TYPE stands behind HELP');
      const family = families.get(current);
      assert.equal(family?.type, '');
      families.set(current, { help: family?.help ?? '', samples: [], type: type[2] ?? '' });
    } else {
      const [, name, , inside = '', value] =
        /^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(.*)\})? (NaN|[+-]Inf|[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)$/s.exec(
          line,
        ) ?? [];
      assert.equal(name, current, `that is no sample of ${current}: ${line}`);
      assert.notEqual(families.get(current)?.type, '', 'the type is told before the samples');
      const labels = readLabels(inside);
      const key = JSON.stringify([name, Object.entries(labels).sort()]);
      assert.ok(!series.has(key), `two samples of ${key}`);
      series.add(key);
      families.get(current)?.samples.push({ labels, value: Number(value?.replace('Inf', 'Infinity')) });
    }
  }
  return families;
}

function readLabels(inside: string): Record<string, string> {
  const labels: Record<string, string> = {};
  let rest = inside;
  while (rest !== '') {
    const [all, name = '', value = ''] =
      /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\["\\n])*)"(?:,|$)/s.exec(rest) ?? [];
    assert.ok(all !== undefined, `these are no labels: ${rest}`);
    assert.ok(!Object.hasOwn(labels, name), `two labels ${name}`);
    assert.ok(!name.startsWith('__'), `${name} is reserved`);
    labels[name] = unescaped(value, '\\n"');
    rest = rest.slice(all.length);
  }
  return labels;
}

function unescaped(text: string, allowed: string): string {
  return text.replace(/\\(.?)/gs, (_, character: string) => {
    assert.ok(character !== '' && allowed.includes(character), `\\${character} is no escape`);
    return character === 'n' ? '\n' : character;
  });
}
