/** Where the files of a bundle come from: beside the app, or a folder of the browser's storage. */

import type { FileSource } from "../core/bundle";
import { bundleError, messageOf } from "../core/errors";
import { commas } from "../core/manifest";

/** Files of a bundle beside the app. */
export function fetchedSource(base: string): FileSource {
  return {
    async read(path, maxBytes) {
      const response = await fetch(new URL(path, base)).catch((error: unknown) => {
        throw bundleError(`${path} cannot be loaded: ${messageOf(error)}`);
      });
      if (!response.ok) throw bundleError(`${path} cannot be loaded: HTTP status ${response.status}`);
      return limited(path, new Uint8Array(await response.arrayBuffer()), maxBytes);
    },
  };
}

/** Files of a bundle in a folder of the browser's storage. */
export function folderSource(folder: FileSystemDirectoryHandle): FileSource {
  return {
    async read(path, maxBytes) {
      const file = await (await fileHandle(folder, path, false)).getFile().catch(() => {
        throw bundleError(`${path} is missing`);
      });
      if (file.size > maxBytes) throw tooLarge(path, file.size, maxBytes);
      return new Uint8Array(await file.arrayBuffer());
    },
  };
}

/** A file below a folder, and with `create` the folders on the way. */
export async function fileHandle(
  folder: FileSystemDirectoryHandle, path: string, create: boolean,
): Promise<FileSystemFileHandle> {
  const names = path.split("/");
  const last = names.pop() as string;
  try {
    for (const name of names) folder = await folder.getDirectoryHandle(name, { create });
    return await folder.getFileHandle(last, { create });
  } catch (error) {
    if (create) throw error;
    throw bundleError(`${path} is missing`);
  }
}

function limited(path: string, data: Uint8Array<ArrayBuffer>, maxBytes: number): Uint8Array<ArrayBuffer> {
  if (data.length > maxBytes) throw tooLarge(path, data.length, maxBytes);
  return data;
}

function tooLarge(path: string, bytes: number, maxBytes: number): Error {
  return bundleError(`${path} has ${commas(bytes)} bytes, expected ${commas(maxBytes)} at most`);
}
