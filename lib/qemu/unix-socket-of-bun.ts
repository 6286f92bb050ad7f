import type { UnixSocket, UnixSocketListener } from './unix-socket.ts';

/** Bun's own sockets (https://bun.com/docs/runtime/networking/tcp), as far as they are used here. */
interface BunSocket {
  /** @returns how many bytes were taken; what was not is to be written again on `drain` */
  write(bytes: Uint8Array): number;
  terminate(): void;
}

interface BunSocketHandler {
  open(socket: BunSocket): void;
  data(socket: BunSocket, bytes: Uint8Array): void;
  drain(socket: BunSocket): void;
  /** With an error where the connection failed. */
  close(socket: BunSocket, error?: Error): void;
  error(socket: BunSocket, error: Error): void;
  connectError(socket: BunSocket, error: Error): void;
}

declare const Bun: {
  connect(options: { readonly unix: string; readonly socket: BunSocketHandler }): Promise<BunSocket>;
};

/** Stands for `openUnixSocket` of unix-socket.ts in the binary that Bun makes: Bun's `node:net` costs it twice as much. */
export function openUnixSocket(path: string, listener: UnixSocketListener): UnixSocket {
  let unsent = new Uint8Array(0);
  let connected: BunSocket | undefined;
  let open = true;

  const destroy = () => {
    open = false;
    connected?.terminate();
  };
  const end = (error: Error | undefined) => {
    if (open) {
      destroy();
      listener.ended(error);
    }
  };
  const send = (socket: BunSocket) => {
    if (open && unsent.length > 0) {
      unsent = unsent.subarray(Math.max(0, socket.write(unsent)));
    }
  };
  Bun.connect({
    unix: path,
    socket: {
      open(socket) {
        connected = socket;
        if (open) {
          send(socket);
        } else {
          socket.terminate();
        }
      },
      data(_, bytes) {
        if (open) {
          // Bun uses the memory again once this returns.
          listener.received(new Uint8Array(bytes));
        }
      },
      drain: send,
      close: (_, error) => end(error),
      error: (_, error) => end(error),
      connectError: (_, error) => end(error),
    },
  }).catch(end);
  return {
    write(text) {
      unsent = Buffer.concat([unsent, Buffer.from(text)]);
      if (connected !== undefined) {
        send(connected);
      }
    },
    destroy,
  };
}
