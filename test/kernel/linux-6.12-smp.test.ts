/** The guest suite on Linux 6.12 with two processors, or what of it is worth that; see linux-suite.ts. */
import { declareKernel } from "./linux-suite.ts";

await declareKernel("6.12-smp");
