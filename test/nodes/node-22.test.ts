/** The portable tests with Node.js 22; see node-suite.ts. */
import { declareNode } from "./node-suite.ts";

await declareNode("22");
