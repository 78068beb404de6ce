/** worker-process.ts: what a worker sent before its exit is handled, though the exit is reported first. */
import { expect, test } from "vitest";
import { WorkerProcess } from "../../../src/pool/worker-process.ts";
import { close } from "../../../src/sys/libc/files.ts";
import { SOCK_SEQPACKET, send, socketPair } from "../../../src/sys/libc/sockets.ts";
import { makeZombie } from "../../helpers/processes/zombie.ts";
import { until } from "../../helpers/until.ts";

const say = (fd: number, message: object): void => {
  const body = Buffer.from(JSON.stringify(message));
  expect(send(fd, body, body.length, 0)).toBe(body.length);
};

test("messages that wait in the channel when the exit is reported are not lost", () => {
  const [ours, theirs] = socketPair(SOCK_SEQPACKET);
  const heard: string[] = [];
  let report: (how: string) => void = () => {};
  const worker = new WorkerProcess(
    (exited) => {
      report = exited;
      return {
        process: { pid: process.pid, kill: () => heard.push("kill"), unref: () => {} },
        channelFd: ours,
        socketPath: "/nonexistent/worker",
      };
    },
    { stderr: "ignore", directory: "/nonexistent" },
    { ready: () => heard.push("ready"), exited: (how) => heard.push(how) },
  );
  say(theirs, { type: "ready" });
  say(theirs, { type: "pong" });
  say(theirs, { type: "pong" });
  // No turn of the event loop in between: the messages are received by the report itself.
  report("exited with status 0");
  expect(worker.pongs).toBe(2);
  expect(heard).toEqual(["ready", "exited with status 0"]);
  close(theirs);
});

test("a worker that was killed and is a zombie, while another thread keeps it, is lost without an exit", async () => {
  const { pid, end } = await makeZombie();
  const [ours, theirs] = socketPair(SOCK_SEQPACKET);
  const heard: string[] = [];
  const worker = new WorkerProcess(
    () => ({
      process: { pid, kill: () => heard.push("kill"), unref: () => {} },
      channelFd: ours,
      socketPath: "/nonexistent/worker",
    }),
    { stderr: "ignore", directory: "/nonexistent" },
    { ready: () => {}, exited: (how) => heard.push(how) },
  );
  // Nothing but its silence tells that it was killed.
  worker.noteSilence(true);
  await until("it is lost", () => heard.length > 1);
  expect(heard).toEqual(["kill", `worker ${pid} was killed, but is stuck in a read in the kernel`]);
  close(theirs);
  await end();
});
