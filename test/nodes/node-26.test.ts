/** The portable tests with Node.js 26; see node-suite.ts. */
import { declareNode } from "./node-suite.ts";

await declareNode("26");
