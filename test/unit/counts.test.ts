import { describe, expect, test } from "vitest";
import { costs, START_COLUMNS } from "../bench/count/guest/costs.mjs";
import { perRead, READ_COLUMNS } from "../bench/count/guest/per-read.mjs";
import { parse } from "../bench/count/guest/strace.mjs";
import { measure } from "../bench/count/house.mjs";
import { compare, readTable, type Section, writeTable } from "../bench/count/table.mjs";

const WAIT = "epoll_wait(5, 0x1, 64, 12) = 1";
const ANSWER = ["pread64(7, 0x1, 4096, 0) = 4096", "statx(7, 0x1) = 0", "sendto(6, 0x1, 4112, 0) = 4112"];
const READ = [WAIT, "recvfrom(6, 0x1, 28) = 28", ...ANSWER];

/** Lines of strace, a millisecond apart unless a number says how many have passed. */
function trace(lines: readonly (string | number)[]): ReturnType<typeof parse> {
  let ms = 0;
  const text = lines.flatMap((line) => {
    ms += typeof line === "number" ? line : 1;
    return typeof line === "number" ? [] : [`${(1000 + ms / 1000).toFixed(6)} ${line}`];
  });
  return parse(text.join("\n"), 1);
}

function figures(lines: readonly (string | number)[], depth = 1): Record<string, number | undefined> {
  const values = perRead(trace(lines), depth);
  return Object.fromEntries(
    READ_COLUMNS.flatMap((name, at) => (values[at] === 0 ? [] : [[name, values[at]]])),
  );
}

function times<T>(count: number, make: (round: number) => readonly T[]): T[] {
  return Array.from({ length: count }, (_, round) => make(round)).flat();
}

const PLAIN = { epoll_wait: 1, recv: 1, pread: 1, statx: 1, send: 1, total: 5 };

describe("system calls for each read", () => {
  test("are those of a round", () => {
    expect(figures(times(32, () => READ))).toEqual(PLAIN);
  });

  test("are divided among the reads that come in together, in one piece or two", () => {
    const together = [WAIT, "recvfrom(6, 0x1, 224) = 224", ...ANSWER];
    const apart = [WAIT, "recvfrom(6, 0x1, 224) = 84", "recvfrom(6, 0x1, 224) = 140", ...ANSWER];
    expect(
      figures(
        times(32, () => together),
        8,
      )["recv"],
    ).toBe(0.125);
    expect(
      figures(
        times(32, () => apart),
        8,
      ),
    ).toMatchObject({ recv: 0.25, total: 0.75 });
  });

  test("do not depend on where a time slice ends or how long a client takes", () => {
    const sleep = ["epoll_pwait(3, [], 1024, 0) = 0", "epoll_pwait(3, 0x1, 1024, 7253) = 1"];
    const slice = [...sleep, ...READ.with(0, "epoll_wait(5, 0x1, 64, 0) = 1")];
    const linger = ["epoll_wait(5, 0x1, 64, 12) = 0", 11, ...slice];
    const lines = times<string | number>(36, (round) =>
      round % 2 === 0 ? [20, ...slice] : round % 3 === 0 ? linger : READ,
    );
    expect(figures(lines)).toEqual(PLAIN);
  });

  test("show a return to the event loop that is nothing but a detour", () => {
    const detour = ["epoll_pwait(3, 0x1, 1024, 0) = 1", ...READ];
    expect(figures(times(32, () => detour))).toMatchObject({ "event loop": 1, epoll_wait: 1, total: 6 });
  });

  test("show a pump that does not linger", () => {
    const hasty = [...READ, "epoll_wait(5, 0x1, 64, 0) = 0", "epoll_pwait(3, 0x1, 1024, -1) = 1"];
    expect(figures(times(32, () => hasty))).toMatchObject({ "event loop": 1, epoll_wait: 2, total: 7 });
  });

  test("show what happens in each eighth read only", () => {
    const lines = times(48, (round) => (round % 8 === 3 ? ["fcntl(7, F_GETLEASE) = 0", ...READ] : READ));
    expect(figures(lines)["fcntl"]).toBe(0.125);
  });

  const LOOK = [
    'openat(AT_FDCWD, ""..., O_RDONLY|O_CLOEXEC) = 9',
    "statx(9, 0x1) = 0",
    "read(9, 0x1, 4096) = 3",
    "close(9) = 0",
    "fcntl(8, F_GETLEASE) = 0",
    "statx(7, 0x1) = 0",
  ];

  test("leave out a worker's look at its leases each second, also where a window takes longer", () => {
    const large = [WAIT, "recvfrom(6, 0x1, 224) = 224", 1200, ...ANSWER];
    const lines = times<string | number>(16, () => [
      "epoll_pwait(3, 0x1, 1024, 7253) = 1",
      ...LOOK,
      ...large,
    ]);
    expect(figures(lines, 8)).toMatchObject({ pread: 0.125, statx: 0.125, send: 0.125 });
    expect(figures(lines, 8)).not.toHaveProperty("fcntl");
  });

  test("show a look at the lease with each read", () => {
    expect(figures(times(32, () => [...LOOK, ...READ]))).toMatchObject({ fcntl: 1, other: 3 });
  });

  test("leave out what the engine does for itself", () => {
    expect(figures(times(32, () => [...READ, "madvise(0x1, 4096, MADV_DONTNEED) = 0"]))).toEqual(PLAIN);
  });

  test("cannot be told from too few rounds", () => {
    expect(() => perRead(trace(times(4, () => READ)), 1)).toThrow("whole rounds");
  });
});

describe("what a command loads and starts", () => {
  test("is told by process: threads are none, files count once, failures never", () => {
    const calls = parse(
      [
        '10 execve("/usr/bin/node", ["node", "/p/main.js"], 0x1 /* 9 vars */) = 0',
        "10 clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0} => {parent_tid=[11]}, 88) = 11",
        '11 openat(AT_FDCWD, "/p/main.js", O_RDONLY) = 3',
        '10 openat(AT_FDCWD, "/p/main.js", O_RDONLY) = 3',
        '10 openat(AT_FDCWD, "/elsewhere/a.js", O_RDONLY) = 3',
        '10 openat(AT_FDCWD, "/p/missing.js", O_RDONLY) = -1 ENOENT (No such file or directory)',
        '10 openat(AT_FDCWD, "/p/a.node", O_RDONLY|O_CLOEXEC <unfinished ...>',
        "10 <... openat resumed>) = 4",
        "10 clone(child_stack=NULL, flags=SIGCHLD <unfinished ...>",
        '12 execve("/usr/bin/node", ["node", "/p/main.js", "manager"], 0x1 /* 9 vars */) = 0',
        "10 <... clone resumed>, child_tidptr=0x1) = 12",
        '12 openat(AT_FDCWD, "/p/main.js", O_RDONLY) = 3',
        '12 openat(AT_FDCWD, "/p/manager.js", O_RDONLY) = 3',
        "12 vfork() = 13",
        '13 execve("/bin/false", ["false"], 0x1 /* 9 vars */) = -1 ENOENT (No such file or directory)',
        '13 execve("/bin/sh", ["sh"], 0x1 /* 9 vars */) = 0',
        "13 clone(child_stack=NULL, flags=SIGCHLD) = 14",
        '14 execve("/usr/bin/node", ["node", "/p/worker.mjs"], 0x1 /* 9 vars */) = 0',
        '14 openat(AT_FDCWD, "/p/worker.mjs", O_RDONLY) = 3',
      ].join("\n"),
      0,
    );
    const rows = [...costs(calls, "/p", () => 512)].map(([who, row]) => [who, ...row]);
    expect(START_COLUMNS).toHaveLength(5);
    expect(rows).toEqual([
      ["command", 1, 0.5, 1, 1, 1],
      ["manager", 2, 1, 0, 1, 1],
      ["other programs", 0, 0, 0, 1, 1],
      ["workers", 1, 0.5, 0, 1, 1],
    ]);
  });
});

describe("the aims of the house", () => {
  test("count what is over them, by a line, a file and a column", () => {
    const lines = (count: number): string => "x\n".repeat(count);
    const folder = (name: string, count: number): [string, string][] =>
      Array.from({ length: count }, (_, at) => [`${name}/${at}.ts`, ""]);
    const texts = new Map([
      ["src/exact.ts", lines(300)],
      ["src/long.ts", lines(301)],
      ["src/wide.ts", `${"x".repeat(120)}\n${"ä".repeat(120)}\n${"x".repeat(121)}\n`],
      ...folder("src/full", 12),
      ...folder("src/over", 14),
    ]);
    expect(measure(texts)).toEqual([1, 1, 2, 1]);
  });
});

describe("the table", () => {
  const section: Section = { name: "reads", columns: ["recv", "send"], digits: 3, slack: () => 0.05 };
  const text = writeTable(
    "Words.\n<!-- counts: reads -->\n<!-- /counts -->\nMore words.\n",
    section,
    new Map([
      ["small", [1, 0.125]],
      ["large", [2, 3]],
    ]),
  );

  test("is read as it was written, and leaves the words around it alone", () => {
    expect(text).toMatch(/^Words\.\n/);
    expect(text).toMatch(/\nMore words\.\n$/);
    const { columns, rows } = readTable(text, "reads");
    expect(columns).toEqual(["recv", "send"]);
    expect([...rows]).toEqual([
      ["small", [1, 0.125]],
      ["large", [2, 3]],
    ]);
    expect(writeTable(text, section, rows)).toBe(text);
  });

  test("says what is worse and what is better, with both values, beyond the slack", () => {
    const measured = new Map([
      ["small", [1.05, 0.25]],
      ["large", [1, 2.96]],
    ]);
    expect(compare(section, readTable(text, "reads"), measured)).toEqual([
      { row: "small", verdict: "worse", text: "reads: small: send: worse: 0.125 in the table, 0.25 now" },
      { row: "large", verdict: "better", text: "reads: large: recv: better: 2 in the table, 1 now" },
    ]);
  });

  test("has to have every row and column that is measured, and no other", () => {
    const renamed = new Map([
      ["tiny", [1, 0.125]],
      ["large", [2, 3]],
    ]);
    expect(
      compare(section, readTable(text, "reads"), renamed).map(({ verdict, text: words }) => [verdict, words]),
    ).toEqual([
      ["unknown", "reads: small: only in the table"],
      ["unknown", "reads: tiny: only measured"],
    ]);
    const wider = { ...section, columns: ["recv", "send", "statx"] };
    const rows = new Map([
      ["small", [1, 0.125, 0]],
      ["large", [2, 3, 0]],
    ]);
    expect(compare(wider, readTable(text, "reads"), rows).map(({ verdict }) => verdict)).toEqual([
      "unknown",
      "unknown",
    ]);
  });
});
