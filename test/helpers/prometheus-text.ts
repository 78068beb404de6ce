/**
 * Reads Prometheus' text format as strictly as a scraper and `promtool check metrics` do together, for tests. It shares
 * nothing with the code that writes it.
 *
 * Refused: a line that is neither comment nor sample, HELP or TYPE twice or late, a family in two places, a sample
 * twice, names and labels out of the grammar, counters without `_total`, histograms whose buckets fall or miss +Inf.
 */

export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Family {
  readonly type: string;
  readonly help: string;
  readonly samples: Sample[];
}

const NAME = /^[a-zA-Z_:][a-zA-Z0-9_:]*/;
const LABEL = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(,?)/;
const NUMBER = /^(?:[+-]?Inf|NaN|[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)$/;
const SUFFIXES: Record<string, readonly string[]> = {
  histogram: ["_bucket", "_sum", "_count"],
  summary: ["", "_sum", "_count"],
};

/** The families by name. @throws Error with the line that breaks a rule */
export function parsePrometheusText(text: string): Map<string, Family> {
  if (!text.endsWith("\n")) throw new Error("the text does not end with a newline");
  const families = new Map<string, Family>();
  let current: { name: string; help: string } | undefined;
  const seen = new Set<string>();
  for (const line of text.slice(0, -1).split("\n")) {
    const fail = (why: string): never => {
      throw new Error(`${why}: ${line}`);
    };
    const help = /^# HELP (\S+) (.+)$/.exec(line);
    const type = /^# TYPE (\S+) (counter|gauge|histogram|summary|untyped)$/.exec(line);
    if (help !== null) {
      if (families.has(help[1] as string)) fail("a family in two places");
      current = { name: help[1] as string, help: help[2] as string };
    } else if (type !== null) {
      const [, name, kind] = type as unknown as [string, string, string];
      if (current?.name !== name || families.has(name)) fail("TYPE without its HELP, or twice");
      if ((kind === "counter") !== name.endsWith("_total")) fail("_total is for counters");
      families.set(name, { type: kind, help: current?.help ?? "", samples: [] });
    } else {
      const sample = parseSample(line, fail);
      const family = current === undefined ? undefined : families.get(current.name);
      if (family === undefined || current === undefined) return fail("a sample before its TYPE");
      const suffix = sample.name.slice(current.name.length);
      const allowed = SUFFIXES[family.type] ?? [""];
      if (!sample.name.startsWith(current.name) || !allowed.includes(suffix)) fail("not of this family");
      const identity = sample.name + JSON.stringify(Object.entries(sample.labels).sort());
      if (seen.has(identity)) fail("a sample twice");
      seen.add(identity);
      family.samples.push(sample);
    }
  }
  for (const [name, family] of families) checkFamily(name, family);
  return families;
}

function parseSample(line: string, fail: (why: string) => never): Sample {
  const name = NAME.exec(line)?.[0] ?? fail("no sample");
  let rest = line.slice(name.length);
  const labels: Record<string, string> = {};
  if (rest.startsWith("{")) {
    rest = rest.slice(1);
    while (!rest.startsWith("}")) {
      const label = LABEL.exec(rest) ?? fail("no label");
      const [whole, key, value] = label as unknown as [string, string, string];
      if (key in labels) fail("a label twice");
      labels[key] = value;
      rest = rest.slice(whole.length);
    }
    rest = rest.slice(1);
  }
  if (!rest.startsWith(" ") || !NUMBER.test(rest.slice(1))) fail("no value");
  return { name, labels, value: Number(rest.slice(1).replace("Inf", "Infinity")) };
}

function checkFamily(name: string, { type, samples }: Family): void {
  if (samples.length === 0) throw new Error(`${name} has no samples`);
  if (type === "counter" && samples.some(({ value }) => !(value >= 0)))
    throw new Error(`${name} is negative`);
  if (type !== "histogram") return;
  const rows = new Map<string, Sample[]>();
  for (const sample of samples) {
    const { le: _, ...others } = sample.labels;
    const key = JSON.stringify(others);
    rows.set(key, [...(rows.get(key) ?? []), sample]);
  }
  for (const row of rows.values()) {
    const buckets = row.filter((sample) => sample.name === `${name}_bucket`);
    const ends = buckets.map(({ labels }) => Number(labels["le"]?.replace("Inf", "Infinity")));
    const counts = buckets.map(({ value }) => value);
    const rises = (values: readonly number[], strictly: boolean): boolean =>
      values.every((value, at) => at === 0 || value - (values[at - 1] as number) >= (strictly ? 1e-12 : 0));
    if (!rises(ends, true) || ends.at(-1) !== Number.POSITIVE_INFINITY) throw new Error(`${name}: ends`);
    if (!rises(counts, false)) throw new Error(`${name}: its buckets fall`);
    const count = row.find((sample) => sample.name === `${name}_count`);
    if (count?.value !== counts.at(-1)) throw new Error(`${name}: its count is not that of +Inf`);
    if (!row.some((sample) => sample.name === `${name}_sum`)) throw new Error(`${name}: no sum`);
  }
}
