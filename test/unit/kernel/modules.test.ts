/** modules.ts: what the kernel has of a driver, by the indexes beside its modules. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { driverState } from "../../../src/kernel/modules.ts";

test("a driver is loaded, built in, a module or missing", () => {
  const modules = mkdtempSync(join(tmpdir(), "erofs-nbd-modules-"));
  try {
    writeFileSync(join(modules, "modules.builtin"), "kernel/drivers/one/first_one.ko\n");
    writeFileSync(
      join(modules, "modules.dep"),
      "kernel/drivers/two/second_one.ko.xz: kernel/lib/first_one.ko\nkernel/a/not_second.ko:\n",
    );
    expect(driverState("first_one", [modules])).toBe("built in");
    expect(driverState("second_one", [modules])).toBe("module");
    expect(driverState("second", [modules])).toBe("missing");
    expect(driverState("first_one", [join(modules, "nowhere")])).toBe("missing");
    expect(driverState("kernel", [modules])).not.toBe("module");
  } finally {
    rmSync(modules, { recursive: true });
  }
});
