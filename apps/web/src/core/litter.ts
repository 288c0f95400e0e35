/** What file managers and disks leave in folders, as runtime/litter.py has it. */

// In small letters: Windows writes Desktop.ini and desktop.ini, and both are one file there.
const FILES = new Set([".ds_store", ".localized", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini"]);
const FOLDERS = new Set([
  "__macosx", ".appledouble", ".spotlight-v100", ".fseventsd", ".trashes", ".temporaryitems",
  "system volume information", "$recycle.bin", "@eadir",
]);
const APPLE_DOUBLE = "._"; // macOS keeps what exFAT and SMB cannot hold of x in ._x beside it

/** Whether a file by this relative path is litter.
 * @param exists Whether there is a file or folder by a path; `._x` is litter where there is `x`. */
export function isLitterName(path: string, exists: (path: string) => boolean): boolean {
  const folders = path.split("/");
  const name = folders.pop()!;
  if (folders.some((folder) => FOLDERS.has(folder.toLowerCase()))) return true;
  const of = name.startsWith(APPLE_DOUBLE) ? name.slice(APPLE_DOUBLE.length) : name;
  if (FILES.has(of.toLowerCase())) return true;
  return of !== name && of !== "" && exists([...folders, of].join("/"));
}
