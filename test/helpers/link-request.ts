/** What a pool is asked for a link, in tests without a supervisor. */
import type { Image, LinkRequest } from "../../src/supervisor/ports.ts";

export function linkRequest(
  image: Pick<Image, "spec" | "fd">,
  changes: Partial<LinkRequest> = {},
): LinkRequest {
  return {
    image: { spec: image.spec, fd: image.fd, blockSizeBytes: 512 },
    copyOnly: false,
    spread: false,
    device: "a device",
    linkIndex: 0,
    deviceIndex: () => undefined,
    below: [],
    counted: false,
    inFlight: () => undefined,
    hangTimeoutMs: 2000,
    ...changes,
  };
}
