/** Types of host.mjs for TypeScript callers. */
export declare const HOST_KERNEL: "host";
export declare function hostObstacle(): string | undefined;
