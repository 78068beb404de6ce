/** The second half of the guest suite on Linux 7.2, in a guest of its own; see linux-suite.ts. */
import { declareKernel } from "./linux-suite.ts";

await declareKernel("7.2", "second");
