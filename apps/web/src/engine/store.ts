/** Bundles in the browser's own storage (OPFS), each in a folder named by its sha256.
 *
 * The manifest is written last: a folder without one is of an import that runs or was interrupted.
 * A lock for each bundle says which, also to other tabs. */

import { Bundle } from "../core/bundle";
import { FlowshipError, messageOf } from "../core/errors";
import { bundleBytes, commas, type Manifest, MANIFEST } from "../core/manifest";
import { isSha256 } from "../core/sha256";
import { runnablePrecisions } from "../core/supported";
import { BundleZip } from "../core/zip";
import type { ModelSummary } from "./api";
import { fileHandle, folderSource } from "./sources";
import { nowhere, unpack } from "./unpack";

const FOLDER = "bundles";

export class OpfsStore {
  /** What cannot be opened is listed too, with its problem: only the user removes it. */
  async list(): Promise<ModelSummary[]> {
    const root = await this.root();
    const found: ModelSummary[] = [];
    for (const id of await idsIn(root)) {
      const folder = await root.getDirectoryHandle(id).catch(() => null);
      if (!folder) continue; // removed meanwhile
      if (await isUnfinished(folder)) await this.removeInterrupted(root, id);
      else found.push(await summarize(id, folder));
    }
    return found.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  async open(id: string): Promise<Bundle> {
    const folder = await (await this.root()).getDirectoryHandle(id).catch(() => {
      throw new FlowshipError("storage", `there is no model ${id} in the browser's storage`);
    });
    return Bundle.open(folderSource(folder));
  }

  /** Check a zipped bundle as runtime/bundle_zip.py does, and unpack what it declares.
   *
   * A bundle that is there already is only compared: what is wrong with the zip, or a cancel, leaves it
   * as it was. Where its own files are damaged it is written again. */
  async importZip(file: Blob, onProgress: (fraction: number) => void, signal: AbortSignal): Promise<ModelSummary> {
    const zip = await BundleZip.open(file);
    const data = await zip.manifest();
    const bundle = Bundle.of(data, { read: () => Promise.reject(new Error("not unpacked yet")) });
    zip.checkSizes(bundle.manifest);
    const found = summary(bundle); // nothing is kept that cannot be opened
    const root = await this.root(); // which says so where the browser keeps nothing
    return locked(bundle.sha256, { signal }, async () => {
      if (await holds(root, bundle.sha256)) {
        await unpack(zip, bundle.manifest, nowhere, onProgress, signal);
        if (await isWhole(root, bundle.sha256)) return found;
      }
      await removeFolder(root, bundle.sha256);
      await checkRoom(found.bytes);
      try {
        await write(zip, bundle.manifest, data, await root.getDirectoryHandle(bundle.sha256, { create: true }),
          onProgress, signal);
        return found;
      } catch (error) {
        await removeFolder(root, bundle.sha256);
        throw error instanceof DOMException && error.name === "QuotaExceededError"
          ? noRoom(found.bytes) : error;
      }
    });
  }

  async remove(id: string): Promise<void> {
    const root = await this.root();
    await locked(id, {}, () => removeFolder(root, id));
  }

  /** Not one that is being written, whose importer has the lock. */
  private async removeInterrupted(root: FileSystemDirectoryHandle, id: string): Promise<void> {
    await locked(id, { ifAvailable: true }, async (lock) => {
      const folder = lock && (await root.getDirectoryHandle(id).catch(() => null));
      if (folder && (await isUnfinished(folder))) await removeFolder(root, id);
    });
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

/** One at a time for each bundle, in all tabs; a tab that ends gives its locks back. */
function locked<T>(id: string, options: LockOptions, task: (lock: Lock | null) => Promise<T>): Promise<T> {
  return navigator.locks.request(`flowship-bundle-${id}`, options, task) as Promise<T>;
}

async function write(
  zip: BundleZip, manifest: Manifest, data: Uint8Array<ArrayBuffer>, folder: FileSystemDirectoryHandle,
  onProgress: (fraction: number) => void, signal: AbortSignal,
): Promise<void> {
  const target = async (path: string) => (await fileHandle(folder, path, true)).createWritable();
  await unpack(zip, manifest, target, onProgress, signal);
  await Bundle.of(data, folderSource(folder)).planFile(); // throws where the plan cannot be read
  const writer = await target(MANIFEST);
  await writer.write(data);
  await writer.close();
}

async function idsIn(root: FileSystemDirectoryHandle): Promise<string[]> {
  const ids: string[] = [];
  for await (const [name, { kind }] of root.entries()) {
    if (kind === "directory" && isSha256(name)) ids.push(name);
  }
  return ids;
}

/** Without a manifest, or with one that was being written. */
async function isUnfinished(folder: FileSystemDirectoryHandle): Promise<boolean> {
  try {
    return (await (await folder.getFileHandle(MANIFEST)).getFile()).size === 0;
  } catch (error) {
    return error instanceof DOMException && error.name === "NotFoundError";
  }
}

async function holds(root: FileSystemDirectoryHandle, id: string): Promise<boolean> {
  const folder = await root.getDirectoryHandle(id).catch(() => null);
  return folder !== null && !(await isUnfinished(folder));
}

/** Whether every file of a stored bundle is still what it was. */
async function isWhole(root: FileSystemDirectoryHandle, id: string): Promise<boolean> {
  try {
    const bundle = await Bundle.open(folderSource(await root.getDirectoryHandle(id)));
    for (const path of bundle.manifest.files.keys()) await bundle.file(path);
    return bundle.sha256 === id;
  } catch {
    return false;
  }
}

async function removeFolder(root: FileSystemDirectoryHandle, id: string): Promise<void> {
  await root.removeEntry(id, { recursive: true }).catch(() => undefined);
}

/** @throws FlowshipError it holds nothing that runs here. */
function summary({ manifest, sha256: id }: Bundle): ModelSummary {
  const precisions = runnablePrecisions(manifest);
  return { ...entry(id), name: manifest.name, bytes: bundleBytes(manifest), precisions };
}

const entry = (id: string): ModelSummary =>
  ({ id, name: id.slice(0, 12), sha256: id, bytes: 0, removable: true, engineName: "onnx", precisions: [] });

async function summarize(id: string, folder: FileSystemDirectoryHandle): Promise<ModelSummary> {
  try {
    return summary(await Bundle.open(folderSource(folder)));
  } catch (error) {
    return { ...entry(id), problem: messageOf(error) };
  }
}

async function checkRoom(bytes: number): Promise<void> {
  const { quota = Infinity, usage = 0 } = await navigator.storage.estimate();
  if (bytes > quota - usage) throw noRoom(bytes, quota - usage);
}

function noRoom(bytes: number, free?: number): FlowshipError {
  const rest = free === undefined ? "has no room for them" : `has ${commas(free)} free`;
  return new FlowshipError("storage", `the model needs ${commas(bytes)} bytes, the browser's storage ${rest}`);
}
