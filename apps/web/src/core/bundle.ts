/** An opened bundle: its manifest, and its files with size and hash checked before use. */

import { bundleError, FlowshipError } from "./errors";
import { commas, loadManifest, type Manifest, MANIFEST, MAX_MANIFEST_BYTES } from "./manifest";
import { loadPlanFile, PLAN, type PlanFile } from "./plan";
import { sha256, sha256OfFile } from "./sha256";

/** Where the files of a bundle come from. */
export interface FileSource {
  /** The whole file.
   * @throws FlowshipError (bundle) it is missing, or has more than `maxBytes`. */
  read(path: string, maxBytes: number): Promise<Uint8Array<ArrayBuffer>>;
}

export class Bundle {
  private constructor(
    private readonly source: FileSource,
    readonly manifest: Manifest,
    /** Of manifest.json, the bundle's identity: it holds the hash of every file. */
    readonly sha256: string,
  ) {}

  static async open(source: FileSource): Promise<Bundle> {
    return Bundle.of(await source.read(MANIFEST, MAX_MANIFEST_BYTES), source);
  }

  /** One whose manifest is at hand. */
  static of(manifest: Uint8Array, source: FileSource): Bundle {
    checkNoMark(manifest);
    return new Bundle(source, loadManifest(decodeUtf8(manifest, MANIFEST)), sha256(manifest));
  }

  /** A declared file's bytes.
   * @throws FlowshipError (bundle) undeclared, missing, or not what the manifest says. */
  async file(path: string): Promise<Uint8Array<ArrayBuffer>> {
    const entry = this.manifest.files.get(path);
    if (!entry) throw bundleError(`${path} is not declared in ${MANIFEST}`);
    const data = await this.source.read(path, entry.bytes);
    checkFile(path, data.length, entry.bytes, await sha256OfFile(data), entry.sha256);
    return data;
  }

  /** A host array by name.
   * @throws FlowshipError (bundle) there is none, or it is damaged or not finite. */
  async array(name: string): Promise<Float32Array> {
    const entry = this.manifest.arrays.get(name);
    if (!entry) throw bundleError(`${MANIFEST} has no array '${name}'`);
    const data = await this.file(entry.path);
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const array = Float32Array.from({ length: data.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
    if (!array.every(Number.isFinite)) {
      throw bundleError(`the array ${name} holds NaN or infinity`);
    }
    return array;
  }

  async planFile(): Promise<PlanFile> {
    return loadPlanFile(decodeUtf8(await this.file(PLAN), PLAN));
  }
}

export function checkFile(
  path: string, bytes: number, expectedBytes: number, hash: string, expectedHash: string,
): void {
  if (bytes !== expectedBytes) {
    throw bundleError(`${path} has ${commas(bytes)} bytes, expected ${commas(expectedBytes)}`);
  }
  if (hash !== expectedHash) {
    throw bundleError(
      `${path} has the sha256 ${hash}, expected ${expectedHash}: it is damaged or was changed, ` +
        "copy or export the bundle again",
    );
  }
}

const BYTE_ORDER_MARKS = [[0xef, 0xbb, 0xbf], [0xff, 0xfe], [0xfe, 0xff]];

/** @throws FlowshipError (bundle) it is not as it was written: editors on Windows add a mark. */
function checkNoMark(manifest: Uint8Array): void {
  if (BYTE_ORDER_MARKS.some((mark) => mark.every((byte, i) => manifest[i] === byte))) {
    throw bundleError(
      `${MANIFEST} begins with a byte order mark: an editor changed it, copy or export the bundle again`,
    );
  }
}

function decodeUtf8(data: Uint8Array, what: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
  } catch (cause) {
    throw new FlowshipError("bundle", `${what} is not UTF-8`, { cause });
  }
}
