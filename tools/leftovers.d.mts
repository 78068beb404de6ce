/** Types of leftovers.mjs for TypeScript callers. */
export interface Process {
  readonly pid: number;
  readonly parent: number;
  readonly group: number;
  readonly name: string;
}
export declare const LAUNCH_VARIABLE: string;
export declare function processesOf(directory: string): Process[];
export declare function endProcesses(directory: string): Promise<Process[]>;
export declare function removeDirectory(directory: string): string | undefined;
export declare function mountsBelow(directory: string): string[];
