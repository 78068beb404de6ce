/** Types of strace.mjs for TypeScript callers. */

export interface Call {
  readonly pid: number;
  readonly name: string;
  readonly args: string;
  readonly result: number;
  readonly atMs: number;
}

export declare function parse(text: string, onlyPid: number): Call[];

export interface TreeOptions {
  readonly file: string;
  readonly trace: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly whileRunning?: (printed: Promise<unknown>) => Promise<void>;
}

export declare function traceWhile(
  pid: number,
  file: string,
  work: () => void | Promise<void>,
): Promise<Call[]>;
export declare function traceTree(
  command: readonly [string, ...string[]],
  options: TreeOptions,
): Promise<{ calls: Call[]; status: number | null; stderr: string }>;
