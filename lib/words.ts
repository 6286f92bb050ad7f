/**
 * Splits `text` into words as sh(1) would (POSIX shell, 2.2 Quoting), but without a shell: blanks separate,
 * single and double quotes and backslashes group, and nothing is ever expanded, globbed, run or redirected.
 *
 * @returns the words, or undefined when a quote is not closed or a backslash ends the text
 */
export function splitWords(text: string): string[] | undefined {
  const words: string[] = [];
  let word: string | undefined;
  let i = 0;
  while (i < text.length) {
    const character = text.charAt(i);
    if (/\s/.test(character)) {
      if (word !== undefined) {
        words.push(word);
        word = undefined;
      }
      i += 1;
    } else if (character === "'") {
      const end = text.indexOf("'", i + 1);
      if (end < 0) {
        return undefined;
      }
      word = (word ?? '') + text.slice(i + 1, end);
      i = end + 1;
    } else if (character === '"') {
      word ??= '';
      i += 1;
      while (text.charAt(i) !== '"') {
        if (i >= text.length) {
          return undefined;
        }
        // In double quotes a backslash escapes these four only; before others it stands for itself.
        if (text.charAt(i) === '\\' && /["\\$`]/.test(text.charAt(i + 1))) {
          i += 1;
        }
        word += text.charAt(i);
        i += 1;
      }
      i += 1;
    } else if (character === '\\') {
      if (i + 1 >= text.length) {
        return undefined;
      }
      word = (word ?? '') + text.charAt(i + 1);
      i += 2;
    } else {
      word = (word ?? '') + character;
      i += 1;
    }
  }
  if (word !== undefined) {
    words.push(word);
  }
  return words;
}
