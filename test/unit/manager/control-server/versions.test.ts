/**
 * Commands and managers of different versions: what each version of the protocol added, as it was sent then.
 *
 * The fixtures are never edited. A version that adds to the protocol adds a file beside them.
 */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { PROTOCOL } from "../../../../src/control/protocol.ts";
import { type Asker, targetByIdentifier } from "../../../../src/control/target.ts";
import { readParams } from "../../../../src/manager/control-server/control-request.ts";
import type { PARAMS } from "../../../../src/manager/control-server/params.ts";
import { runRequest } from "../../../../src/manager/control-server/run-request.ts";
import { deviceStatus } from "../../cli/fake-manager.ts";

function requestsOf(version: number): Record<string, unknown[]> {
  const fixture = new URL(`../../../fixtures/control/protocol-${version}.json`, import.meta.url);
  return JSON.parse(readFileSync(fixture, "utf8")) as Record<string, unknown[]>;
}
const VERSIONS = Array.from({ length: PROTOCOL }, (_, at) => at + 1);

describe("an older command with a newer manager", () => {
  test.each(
    VERSIONS.flatMap((version) =>
      Object.entries(requestsOf(version)).map(([method, requests]) => ({ version, method, requests })),
    ),
  )("is understood: $method of version $version", ({ method, requests }) => {
    for (const params of requests) expect(readParams(method as keyof typeof PARAMS, params)).toEqual(params);
  });

  test("learns the version of the protocol", async () => {
    const hello = await runRequest("hello", {}, undefined, {} as Parameters<typeof runRequest>[3]);
    expect(hello).toMatchObject({ protocol: PROTOCOL, takesDescriptors: true });
  });
});

describe("a newer command with an older manager", () => {
  const { identifier } = deviceStatus();
  const manager = (hello: object): Asker => ({
    request: async (method) =>
      (method === "hello"
        ? { version: "0.0.0", pid: 1, ...hello }
        : { devices: [deviceStatus({ index: 5 })], notes: [] }) as never,
  });

  test("names a device as that version takes it", async () => {
    expect(await targetByIdentifier(manager({}), identifier)).toEqual({ index: 5 });
    expect(await targetByIdentifier(manager({ protocol: 1 }), identifier)).toEqual({ index: 5 });
    expect(await targetByIdentifier(manager({ protocol: 2 }), identifier)).toEqual({ identifier });
    expect(await targetByIdentifier(manager({ protocol: 3 }), "another")).toBeUndefined();
  });

  test("would be refused with what the manager does not know", () => {
    const [attach] = requestsOf(1)["attach"] as object[];
    expect(() => readParams("attach", { ...attach, later: 1 })).toThrow(/invalid attach request: .*later/);
  });
});
