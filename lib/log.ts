/** Where a part of kvmha tells what it does. Each message names the guest it is about. */
export interface Log {
  debug(message: string): void;
  info(message: string): void;
  warn(message: string): void;
  err(message: string): void;
}
