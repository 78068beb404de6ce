/** The guest suite on this machine's own kernel: `npm test -- --host`; see linux-suite.ts. */
import { declareKernel } from "./linux-suite.ts";

await declareKernel("host");
