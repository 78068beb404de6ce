/** worker-process.ts: what a worker sent before its exit is handled, though the exit is reported first. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { createLink } from "../../../src/pool/links/create-link.ts";
import { WorkerProcess } from "../../../src/pool/worker-process.ts";
import { openImage } from "../../../src/source/open-image.ts";
import type { LinkObserver } from "../../../src/supervisor/ports.ts";
import { close } from "../../../src/sys/libc/files.ts";
import { SOCK_SEQPACKET, send, socketPair } from "../../../src/sys/libc/sockets.ts";
import { linkRequest } from "../../helpers/link-request.ts";
import { makeZombie } from "../../helpers/processes/zombie.ts";
import { until } from "../../helpers/until.ts";

/**
 * A worker process that is none: the test sends its messages and reports its exit. `heard` is what the pool would
 * hear, and the signals, in order.
 */
function fakeWorker(pid = process.pid) {
  const [channelFd, peerFd] = socketPair(SOCK_SEQPACKET);
  const heard: string[] = [];
  let report: (how: string) => void = () => {};
  const worker: WorkerProcess = new WorkerProcess(
    (exited) => {
      report = exited;
      return {
        process: { pid, kill: () => heard.push("kill"), unref: () => {} },
        channelFd,
        socketPath: "/nonexistent/worker",
      };
    },
    { stderr: "ignore", directory: "/nonexistent" },
    {
      ready: () => heard.push("ready"),
      exited: (how) => {
        heard.push(how);
        // As the pool does it: what the worker had is taken from it at once.
        for (const link of worker.links.all) void worker.links.drop(link);
      },
    },
  );
  return {
    worker,
    heard,
    reportExit: (how: string): void => report(how),
    say: (message: object): void => {
      const body = Buffer.from(JSON.stringify(message));
      expect(send(peerFd, body, body.length, 0)).toBe(body.length);
    },
    closePeer: (): void => {
      close(peerFd);
    },
  };
}

test("messages that wait in the channel when the exit is reported are not lost", () => {
  const { worker, heard, say, reportExit, closePeer } = fakeWorker();
  say({ type: "ready" });
  say({ type: "pong" });
  say({ type: "pong" });
  // No turn of the event loop in between: the messages are received by the report itself.
  reportExit("exited with status 0");
  expect(worker.pongs).toBe(2);
  expect(heard).toEqual(["ready", "exited with status 0"]);
  closePeer();
});

test("a link is not taken by a worker whose answer and exit are handled in one turn", async () => {
  const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-exit-"));
  writeFileSync(join(directory, "image"), Buffer.alloc(4096));
  const image = openImage(join(directory, "image"));
  const { worker, say, reportExit, closePeer } = fakeWorker();
  const link = createLink(1, linkRequest(image), {} as LinkObserver, directory);
  say({ type: "ready" });
  const served = worker.links.serve(link);
  say({ type: "serving", link: 1 });
  reportExit("killed by SIGABRT");
  expect(await served).toBe(false);
  expect(link.worker).toBeUndefined();
  link.close();
  link.closeKernelEnd();
  closePeer();
  close(image.fd);
  rmSync(directory, { recursive: true });
});

test("a worker that was killed and is a zombie, while another thread keeps it, is lost without an exit", async () => {
  const { pid, end } = await makeZombie();
  const { worker, heard, closePeer } = fakeWorker(pid);
  // Nothing but its silence tells that it was killed.
  worker.noteSilence(true);
  await until("it is lost", () => heard.length > 1);
  expect(heard).toEqual(["kill", `worker ${pid} was killed, but is stuck in a read in the kernel`]);
  closePeer();
  await end();
});
