import type { Metafile } from 'esbuild';

/** esbuild's accounts of what is in the script that is run at every start, and of what is in the rest. */
export interface Contents {
  readonly main: Metafile;
  readonly whole: Metafile;
}

/** A way to make one executable of the sources. */
export interface Runtime {
  /** Writes the scripts beside `output`. */
  bundle(output: string): Promise<Contents>;
  /** The folder of the package that the runtime comes from, below the project's. */
  package(): string;
  /** Makes the executable of the scripts, in the file `program`. */
  pack(output: string, program: string): Promise<void>;
}
