/** The guest suite on Linux 6.12; see linux-suite.ts. */
import { declareKernel } from "./linux-suite.ts";

await declareKernel("6.12");
