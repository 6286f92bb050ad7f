/** A connection to a UNIX stream socket. What is written is sent in order; nothing comes after `destroy`. */
export interface UnixSocket {
  write(text: string): void;
  destroy(): void;
}

/** What comes of a connection, from the next turn of the event loop on. */
export interface UnixSocketListener {
  received(bytes: Uint8Array): void;
  /** Once, and nothing after it; not after `destroy`. */
  ended(error: NodeJS.ErrnoException | undefined): void;
}

/** As Node.js's own lib/net.js uses it. Calls return 0 or a negative errno of libuv. */
interface PipeHandle {
  onread: (bytes: ArrayBuffer | undefined) => void;
  connect(request: object, path: string): number;
  readStart(): number;
  writeUtf8String(request: object, text: string): number;
  close(): void;
}

interface Bindings {
  pipe_wrap: {
    readonly Pipe: new (type: number) => PipeHandle;
    readonly PipeConnectWrap: new () => { oncomplete: (status: number) => void };
    readonly constants: { readonly SOCKET: number };
  };
  stream_wrap: {
    readonly WriteWrap: new () => { oncomplete: (status: number) => void };
    readonly kReadBytesOrError: number;
    readonly streamBaseState: ArrayLike<number>;
  };
  uv: { errname(status: number): string; readonly UV_EOF: number };
}

const binding = (process as unknown as { binding<K extends keyof Bindings>(name: K): Bindings[K] }).binding;

/**
 * Connects to the socket at `path`, by what `node:net` itself is made of: to load that module and the streams that it
 * is built on is a tenth of what a monitor costs. Which Node.js this runs on is known: it is part of the binary.
 */
export function openUnixSocket(path: string, listener: UnixSocketListener): UnixSocket {
  const { Pipe, PipeConnectWrap, constants } = binding('pipe_wrap');
  const { WriteWrap, kReadBytesOrError, streamBaseState } = binding('stream_wrap');
  const handle = new Pipe(constants.SOCKET);
  let unsent: string[] | undefined = [];
  let open = true;

  const destroy = () => {
    if (open) {
      open = false;
      handle.close();
    }
  };
  const end = (status: number) => {
    if (open) {
      destroy();
      listener.ended(status === 0 ? undefined : errorOf(status));
    }
  };
  const failed = (status: number) => {
    if (status < 0) {
      end(status);
    }
  };
  const send = (text: string) => {
    const request = new WriteWrap();
    request.oncomplete = failed;
    failed(handle.writeUtf8String(request, text));
  };

  handle.onread = (bytes) => {
    const count = streamBaseState[kReadBytesOrError] ?? 0;
    if (count < 0) {
      end(count === binding('uv').UV_EOF ? 0 : count);
    } else if (bytes !== undefined && open) {
      listener.received(new Uint8Array(bytes));
    }
  };
  const connecting = new PipeConnectWrap();
  connecting.oncomplete = (status) => {
    if (status < 0 || !open) {
      failed(status);
      return;
    }
    failed(handle.readStart());
    for (const text of unsent ?? []) {
      send(text);
    }
    unsent = undefined;
  };
  const refused = handle.connect(connecting, path);
  if (refused < 0) {
    setImmediate(end, refused);
  }
  return { write: (text) => (unsent === undefined ? send(text) : unsent.push(text)), destroy };
}

function errorOf(status: number): NodeJS.ErrnoException {
  const code = binding('uv').errname(status);
  return Object.assign(new Error(code), { code, errno: status });
}
