/**
 * What a shell completes for a value, determined by its placeholder in usage lines.
 *
 * Used by the generators of completion scripts. Placeholders that are not listed are not completed.
 */
import { FAULT_KINDS } from "../../chaos/schedule.ts";
import type { CommandShape, OperandShape, OptionShape } from "../command-shapes.ts";
import { NBD_OPTIONS } from "../mount/mount-options.ts";

/** What is completed. `words`: one of these; with `isList`, a comma-separated list of them. */
export type ValueKind =
  | { readonly kind: "nothing" | "file" | "directory" | "device" | "target" | "mountpoint" }
  | { readonly kind: "words"; readonly words: readonly string[]; readonly isList: boolean };

const BY_PLACEHOLDER: Readonly<Record<string, ValueKind>> = {
  IMAGE: { kind: "file" },
  FILE: { kind: "file" },
  PATH: { kind: "file" },
  DIR: { kind: "directory" },
  DEVICE: { kind: "device" },
  TARGET: { kind: "target" },
  KINDS: words(FAULT_KINDS, true),
  OPTIONS: words(
    [...NBD_OPTIONS.map(({ name }) => `nbd.${name}=`), "noatime", "nodev", "noexec", "nosuid"],
    true,
  ),
  BYTES: words(["512", "1024", "2048", "4096"], false),
};

/** Exceptions for single options and operands. */
const BY_PLACE: Readonly<Record<string, ValueKind>> = {
  "umount DIR": { kind: "mountpoint" },
  "attach --timeout": words(["never"], false),
};

/** @param place an option or operand of `command`; without `command`, a global option */
export function kindOf(place: OptionShape | OperandShape, command?: CommandShape): ValueKind {
  const placeholder = "name" in place ? place.name : place.value;
  const name = "name" in place ? place.name : (place.names.at(-1) ?? "");
  if (place.choices.length > 0) return words(place.choices, false);
  return (
    BY_PLACE[`${command?.name} ${name}`] ??
    BY_PLACEHOLDER[placeholder?.toUpperCase() ?? ""] ?? { kind: "nothing" }
  );
}

function words(list: readonly string[], isList: boolean): ValueKind {
  return { kind: "words", words: list, isList };
}
