import { createInterface } from "node:readline";

import { call } from "./consumer.mjs";

for await (const _ of createInterface({ input: process.stdin })) {
  console.log((await call(process.argv[2], process.argv[3])).status);
}
