/** A folder of src/ and what it may import. */
export interface RoomRule {
  readonly room: string;
  /** Other rooms, or single files of them. */
  readonly rooms: readonly string[];
  /** Files at the root of src/; all of them where this is not said. */
  readonly leaves?: readonly string[];
  readonly koffi?: true;
}

export declare const ROOMS: readonly RoomRule[];

/** A folder of netlink/ and what it may import of the others. */
export interface NetlinkRoomRule {
  readonly room: string;
  readonly rooms: readonly string[];
  /** Its files that use koffi. */
  readonly koffi?: readonly string[];
}

export declare const NETLINK_ROOMS: readonly NetlinkRoomRule[];

/** The contents of biome.json with the table's rules in the place of its own. */
export declare function withRules(text: string): unknown;
