/** Paths that a stranger wrote: they mean the same file on every system and stay in their folder. */

import { bundleError } from "./errors";
import { quote } from "./json";

const MAX_LENGTH = 512;
const MAX_DEPTH = 32;
// Printable ASCII without what Windows forbids: no Unicode forms to confuse, no drive letters.
const NAME = /^[^\x00-\x1f\x7f-\u{10ffff}<>:"/\\|?*]+$/u;
const RESERVED = /^(con|prn|aux|nul|com\d|lpt\d)(\..*)?$/i; // Windows devices

/** Accept only a portable relative path: `a/b.bin`, ASCII, no `..`, no drive letter.
 * @throws FlowshipError (bundle) anything else. */
export function checkRelative(path: string): void {
  const shown = path.length <= 80 ? quote(path) : `${quote(path.slice(0, 80))}...`;
  const names = path.split("/");
  if (path.length > MAX_LENGTH || names.length > MAX_DEPTH) {
    throw bundleError(
      `the path ${shown} is longer than ${MAX_LENGTH} characters or ${MAX_DEPTH} folders`,
    );
  }
  for (const name of names) {
    if (name === "." || name === ".." || !NAME.test(name)) {
      throw bundleError(
        `the path ${shown} is not allowed in a bundle: expected a relative path in ASCII with ` +
          "forward slashes, without '..', drive letters or special characters",
      );
    }
    if (RESERVED.test(name) || name.endsWith(".") || name.endsWith(" ")) {
      throw bundleError(
        `the path ${shown} is not allowed in a bundle: Windows cannot store ${quote(name)}`,
      );
    }
  }
}

/** Throws if two paths are one file where case is ignored (macOS, Windows). */
export function checkDistinct(paths: Iterable<string>): void {
  const seen = new Map<string, string>();
  for (const path of paths) {
    const key = path.toLowerCase();
    const other = seen.get(key);
    if (other !== undefined) {
      throw bundleError(
        `the paths ${quote(other)} and ${quote(path)} are the same file on a disk that ignores case`,
      );
    }
    seen.set(key, path);
  }
}
