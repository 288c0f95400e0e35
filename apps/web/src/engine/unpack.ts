/** Unpacking a zipped bundle: every file goes somewhere, and must be what the manifest says. */

import { abortError, bundleError, FlowshipError, messageOf } from "../core/errors";
import { bundleBytes, type Manifest, MANIFEST } from "../core/manifest";
import { Sha256 } from "../core/sha256";
import type { BundleZip } from "../core/zip";

type Bytes = Uint8Array<ArrayBuffer>;
/** Where a file goes. */
export type Target = (path: string) => Promise<WritableStream<Bytes>> | WritableStream<Bytes>;

/** For looking at a zip without keeping it. */
export const nowhere: Target = () => new WritableStream<Bytes>();

/** @param onProgress gets 0 to 1.
 * @throws FlowshipError (bundle) a file is damaged or another; what the target throws, as it is. */
export async function unpack(
  zip: BundleZip, manifest: Manifest, target: Target, onProgress: (fraction: number) => void, signal: AbortSignal,
): Promise<void> {
  const total = bundleBytes(manifest);
  let done = 0;
  for (const [path, entry] of manifest.files) {
    const hash = new Sha256();
    const watch = new TransformStream<Bytes, Bytes>({
      transform(piece, controller) {
        hash.update(piece);
        done += piece.length;
        onProgress(total ? done / total : 1);
        controller.enqueue(piece);
      },
    });
    const writer = await target(path);
    await (await zip.stream(path)).pipeThrough(watch).pipeTo(writer, { signal }).catch((error: unknown) => {
      if (signal.aborted) throw abortError();
      // Of the target, which knows better, or of the stream that unpacks.
      if (error instanceof FlowshipError || error instanceof DOMException) throw error;
      throw bundleError(`the zip is damaged: ${path} cannot be unpacked (${messageOf(error)})`);
    });
    if (hash.hex() !== entry.sha256) {
      throw bundleError(`${path} is damaged or was changed: its sha256 is not what ${MANIFEST} says`);
    }
  }
}
