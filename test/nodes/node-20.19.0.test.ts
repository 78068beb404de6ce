/** The portable tests with Node.js 20.19.0; see node-suite.ts. */
import { declareNode } from "./node-suite.ts";

await declareNode("20.19.0");
