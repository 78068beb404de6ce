/**
 * What status and metrics show of a device under load and in a failover, on a real kernel, and the `--json` of mount
 * and umount.
 *
 * Runs inside a guest (or with --host).
 */
import { execFileSync } from "node:child_process";
import { get } from "node:http";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { type Family, parsePrometheusText } from "../../helpers/prometheus-text.ts";
import { cliFixture, expectNothingAttached, RUN_DIR } from "./cli-fixture.ts";
import { guarded } from "./leftovers.ts";
import { afterFailovers, erofsNbdOk, statusWhen, untilAsync, workerOf } from "./product.ts";

const files = cliFixture();
guarded();

function scrape(): Promise<Map<string, Family>> {
  return new Promise((resolve, reject) => {
    get({ socketPath: join(RUN_DIR, "metrics.sock"), path: "/metrics", agent: false }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (part: string) => {
        text += part;
      });
      response.once("end", () => resolve(parsePrometheusText(text)));
    }).once("error", reject);
  });
}

/** The value of the sample that has these labels, among others. */
function numberOf(
  families: Map<string, Family>,
  family: string,
  labels: Record<string, string> = {},
  suffix = "",
): number | undefined {
  const name = `erofs_nbd_${family}`;
  return families
    .get(name)
    ?.samples.find(
      (sample) =>
        sample.name === name + suffix &&
        Object.entries(labels).every(([key, value]) => sample.labels[key] === value),
    )?.value;
}

test("reads and a killed worker show in status and in metrics, and mount and umount report what they did", async () => {
  const mounted = JSON.parse(
    await erofsNbdOk("mount", "--json", files.image, files.mountPoint),
  ) as DeviceStatus;
  expect(mounted).toMatchObject({ state: "serving", mountPoints: [files.mountPoint] });
  const node = mounted.device ?? "";
  const name = `nbd${mounted.index}`;
  await statusWhen(node, "a look at what it did", ({ recent }) => recent !== null);

  const before = numberOf(await scrape(), "device_requests_total", { device: name }) ?? Number.NaN;
  for (const block of [1, 2, 3]) readDirect(node, block);
  await untilAsync("three requests more", async () => {
    const families = await scrape();
    return (numberOf(families, "device_requests_total", { device: name }) ?? 0) >= before + 3;
  });
  const { recent } = await statusWhen(node, "reads in the last seconds", (now) => now.recent?.p50Ms !== null);
  expect(recent?.p99Ms).toBeGreaterThanOrEqual(recent?.p50Ms ?? Number.NaN);
  expect(recent?.p99Ms).toBeLessThan(10_000);

  process.kill(workerOf(mounted), "SIGKILL");
  const after = await afterFailovers(node, 1);
  expect(after.lastFailover).toMatchObject({ level: "takeover", causeClass: "worker-exit" });
  const kind = { level: "takeover", result: "recovered", cause: "worker-exit" };
  let families = await scrape();
  // Scrapes that come within a quarter of a second get the same text.
  await untilAsync("the failover in a scrape", async () => {
    families = await scrape();
    return numberOf(families, "failovers_total", kind) === 1;
  });
  expect(numberOf(families, "failover_stall_seconds", { level: "takeover" }, "_count")).toBe(1);
  expect(numberOf(families, "worker_exits_total", { how: "died" })).toBe(1);
  expect(numberOf(families, "devices", { state: "serving" })).toBe(1);
  expect(numberOf(families, "links", { state: "up" })).toBe(1);
  // The histogram is in the journal, which has outlived the worker.
  const requests = numberOf(families, "device_requests_total", { device: name }) ?? Number.NaN;
  const measured = numberOf(families, "request_duration_seconds", {}, "_count") ?? Number.NaN;
  expect(measured).toBeGreaterThan(0);
  expect(measured).toBeLessThanOrEqual(requests);
  expect(measured).toBeGreaterThanOrEqual(requests - 1);
  expect(numberOf(families, "oldest_request_age_seconds")).toBeLessThan(30);

  const unmounted = JSON.parse(await erofsNbdOk("umount", "--json", files.mountPoint)) as unknown;
  expect(unmounted).toEqual({ mountPoint: files.mountPoint, device: mounted.device, detached: true });
  await expectNothingAttached();
});

/** A block of the device, past the page cache. */
function readDirect(device: string, block: number): void {
  execFileSync(
    "dd",
    [`if=${device}`, "of=/dev/null", "bs=4096", "count=1", `skip=${block}`, "iflag=direct"],
    {
      stdio: "ignore",
    },
  );
}
