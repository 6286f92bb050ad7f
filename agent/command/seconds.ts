import { InvalidArgumentError } from 'commander';

/** The value of an option that is a time. @throws InvalidArgumentError */
export function readSeconds(text: string): number {
  const seconds = Number(text);
  if (!(seconds > 0 && seconds <= 1_000_000)) {
    throw new InvalidArgumentError('It is a number of seconds.');
  }
  return seconds;
}
