// @ts-check
/**
 * Attaches an image through the machine's manager, unless it is attached already, prints its status, and detaches it at
 * Ctrl-C or after the given seconds.
 *
 * `sudo node examples/attach.mjs IMAGE [SECONDS]`. The device is like one of the command line: `erofs-nbd status` shows
 * it.
 */
import { attach, find } from "erofs-nbd";

const [image, seconds] = process.argv.slice(2);
if (image === undefined) throw new Error("usage: node examples/attach.mjs IMAGE [SECONDS]");

// A restarted program finds the device that it had attached.
const device = (await find(image)) ?? (await attach(image));
const { state, source, links } = await device.status();
console.log(
  `${device.device}: ${source.uri}, ${source.sizeBytes} bytes, ${state}, worker ${links[0]?.workerPid}`,
);

device.on("failover", ({ result, level, cause, stallMs }) =>
  console.log(`${result} (${level}) after ${cause}; reads stood still for ${stallMs} ms`),
);
device.on("detached", (why) => console.log(`${device.device} is gone: ${why}`));

process.once("SIGINT", () => device.detach());
if (seconds !== undefined) setTimeout(() => device.detach(), Number(seconds) * 1000);
