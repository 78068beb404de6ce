/** Types of limits.mjs for TypeScript callers. */
export declare const LIMITS: Readonly<
  Record<
    | "unitStepMs"
    | "unitTestMs"
    | "graceMs"
    | "stepMs"
    | "hookMs"
    | "testMs"
    | "longTestMs"
    | "lateMs"
    | "silenceMs"
    | "countsMs"
    | "systemdMs"
    | "kernelMs",
    number
  >
>;
export declare const MAX_BOOTS: number;
