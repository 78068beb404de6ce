/** The smoke run on an emulated 64-bit ARM processor; see node-suite.ts. */
import { declareArm64 } from "./node-suite.ts";

await declareArm64("22");
