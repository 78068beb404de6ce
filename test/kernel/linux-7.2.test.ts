/** The first half of the guest suite on Linux 7.2; see linux-suite.ts. */
import { declareKernel } from "./linux-suite.ts";

await declareKernel("7.2");
