/** A kernel that does not come to its command is started again, a few times; nothing has run in it until then. */
import { beforeAll, expect, test, vi } from "vitest";
import { boot } from "../kernel/lab/boot.mjs";

// With an empty cache the kernel is downloaded first, which may take minutes.
beforeAll(() => boot({ kernel: "7.2", command: ["true"] }), 900_000);

test("a guest that does not start is started three times in all, and says so each time", async () => {
  const said = vi.spyOn(process.stderr, "write").mockReturnValue(true);
  try {
    const failed = boot({ kernel: "7.2", command: ["true"], startTimeoutMs: 1 });
    await expect(failed).rejects.toMatchObject({
      code: "ERR_LAB_BOOT",
      message: expect.stringContaining("did not start its command within 1 ms"),
    });
    const lines = said.mock.calls.filter(([text]) => /^lab: kernel 7\.2 did not start/.test(String(text)));
    expect(lines).toHaveLength(3);
  } finally {
    said.mockRestore();
  }
});
