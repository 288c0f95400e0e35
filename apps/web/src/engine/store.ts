/** Bundles in the browser's own storage (OPFS), each in a folder named by its sha256. */

import { Bundle, type FileSource } from "../core/bundle";
import { abortError, bundleError, FlowshipError, messageOf } from "../core/errors";
import { bundleBytes, commas, loadManifest, MANIFEST } from "../core/manifest";
import { isSha256, Sha256, sha256 } from "../core/sha256";
import { BundleZip } from "../core/zip";
import type { ModelSummary } from "./api";

const FOLDER = "bundles";

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

function limited(path: string, data: Uint8Array<ArrayBuffer>, maxBytes: number): Uint8Array<ArrayBuffer> {
  if (data.length > maxBytes) throw tooLarge(path, data.length, maxBytes);
  return data;
}

function tooLarge(path: string, bytes: number, maxBytes: number): Error {
  return bundleError(`${path} has ${commas(bytes)} bytes, expected ${commas(maxBytes)} at most`);
}

export class OpfsStore {
  async list(): Promise<ModelSummary[]> {
    const found: ModelSummary[] = [];
    for await (const [id, handle] of (await this.root()).entries()) {
      if (handle.kind !== "directory" || !isSha256(id)) continue;
      try {
        const bundle = await Bundle.open(folderSource(handle as FileSystemDirectoryHandle));
        found.push(summary(bundle));
      } catch {
        // An import that was interrupted: the manifest is written last.
        await this.remove(id);
      }
    }
    return found.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  async open(id: string): Promise<Bundle> {
    const folder = await (await this.root()).getDirectoryHandle(id).catch(() => {
      throw new FlowshipError("storage", `there is no model ${id} in the browser's storage`);
    });
    return Bundle.open(folderSource(folder));
  }

  /** Check a zipped bundle as runtime/bundle_zip.py does, and unpack what it declares. */
  async importZip(file: Blob, onProgress: (fraction: number) => void, signal: AbortSignal): Promise<ModelSummary> {
    const zip = await BundleZip.open(file);
    const data = await zip.manifest();
    const manifest = loadManifest(new TextDecoder().decode(data));
    zip.checkSizes(manifest);
    const total = bundleBytes(manifest);
    const root = await this.root(); // which says so where the browser keeps nothing
    await checkRoom(total);
    const id = sha256(data);
    const folder = await root.getDirectoryHandle(id, { create: true });
    try {
      let done = 0;
      for (const [path, entry] of manifest.files) {
        const hash = new Sha256();
        const writer = await (await fileHandle(folder, path, true)).createWritable();
        const watch = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
          transform(piece, controller) {
            hash.update(piece);
            done += piece.length;
            onProgress(total ? done / total : 1);
            controller.enqueue(piece);
          },
        });
        await (await zip.stream(path)).pipeThrough(watch).pipeTo(writer, { signal });
        if (hash.hex() !== entry.sha256) {
          throw bundleError(`${path} is damaged or was changed: its sha256 is not what ${MANIFEST} says`);
        }
      }
      const writer = await (await folder.getFileHandle(MANIFEST, { create: true })).createWritable();
      await writer.write(data);
      await writer.close();
      return summary(await this.open(id));
    } catch (error) {
      await this.remove(id);
      if (signal.aborted) throw abortError();
      if (error instanceof FlowshipError) throw error;
      if (error instanceof DOMException && error.name === "QuotaExceededError") {
        throw new FlowshipError("storage", `the browser's storage has no room for ${commas(total)} bytes`);
      }
      throw bundleError(`the zip is damaged: ${messageOf(error)}`);
    }
  }

  async remove(id: string): Promise<void> {
    await (await this.root()).removeEntry(id, { recursive: true }).catch(() => undefined);
  }

  private async root(): Promise<FileSystemDirectoryHandle> {
    try {
      const top = await navigator.storage.getDirectory();
      return await top.getDirectoryHandle(FOLDER, { create: true });
    } catch (error) {
      throw new FlowshipError(
        "storage",
        `this browser keeps no files for this page (${messageOf(error)}): private windows and pages ` +
          "without https often have no storage",
      );
    }
  }
}

function summary({ manifest, sha256: id }: Bundle): ModelSummary {
  return { id, name: manifest.name, sha256: id, bytes: bundleBytes(manifest), removable: true };
}

async function checkRoom(bytes: number): Promise<void> {
  const { quota = Infinity, usage = 0 } = await navigator.storage.estimate();
  if (bytes > quota - usage) {
    throw new FlowshipError(
      "storage",
      `the model needs ${commas(bytes)} bytes, the browser's storage has ${commas(quota - usage)} free`,
    );
  }
}

async function fileHandle(
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
