/** A zipped bundle: its entries are checked against its manifest, then read one by one. */

import { Crc32 } from "./crc32";
import { bundleError, FlowshipError, messageOf } from "./errors";
import { quote } from "./json";
import { isLitterName } from "./litter";
import { commas, type Manifest, MANIFEST, MAX_MANIFEST_BYTES } from "./manifest";
import { checkDistinct, checkRelative } from "./safe_paths";

// Weights are noise to a compressor (8% smaller at best); the slack is for small all-alike arrays.
const MAX_RATIO = 100;
const SLACK_BYTES = 64 << 20;
const MAX_ENTRIES = 1 << 16;
const MAX_DIRECTORY_BYTES = 64 << 20;
const MAX_LITTER_LENGTH = 1000; // beside longer names no litter is looked for

const END = 0x06054b50, END64 = 0x06064b50, LOCATOR64 = 0x07064b50;
const CENTRAL = 0x02014b50, LOCAL = 0x04034b50;
const STORED = 0, DEFLATED = 8;
const FILE_KIND = 0o100000, FOLDER_KIND = 0o040000;

interface Entry {
  readonly name: string;
  readonly method: number;
  readonly packedBytes: number;
  readonly bytes: number;
  readonly crc32: number;
  /** Of its local header. */
  readonly offset: number;
}

/** The files of a zipped bundle by their path inside it. */
export class BundleZip {
  private constructor(
    private readonly blob: Blob,
    private readonly entries: ReadonlyMap<string, Entry>,
  ) {}

  /** Read the directory of a zip; the bundle lies at its top or in its only folder.
   * @throws FlowshipError (bundle) not a zipped bundle, hostile or damaged. */
  static async open(blob: Blob): Promise<BundleZip> {
    const directory = await readDirectory(blob);
    return new BundleZip(blob, checkedEntries(directory));
  }

  get paths(): Iterable<string> {
    return this.entries.keys();
  }

  /** The manifest's text, which the caller checks before anything else is read. */
  async manifest(): Promise<Uint8Array<ArrayBuffer>> {
    const { bytes } = this.entry(MANIFEST);
    if (bytes > MAX_MANIFEST_BYTES) {
      throw bundleError(
        `${MANIFEST} has ${commas(bytes)} bytes, at most ${commas(MAX_MANIFEST_BYTES)} are read`,
      );
    }
    try {
      return await collect(await this.stream(MANIFEST), bytes);
    } catch (error) {
      if (error instanceof FlowshipError) throw error;
      throw damaged(`${MANIFEST} cannot be unpacked (${messageOf(error)})`);
    }
  }

  /** Throw unless every declared file is there with its size, and all of it can be true. */
  checkSizes(manifest: Manifest): void {
    let total = 0;
    for (const [name, { bytes }] of manifest.files) {
      const found = this.entry(name).bytes;
      if (found !== bytes) {
        throw bundleError(`the zip's ${name} has ${commas(found)} bytes, expected ${commas(bytes)}`);
      }
      total += bytes;
    }
    if (total > MAX_RATIO * this.blob.size + SLACK_BYTES) {
      throw bundleError(
        `the zip of ${commas(this.blob.size)} bytes claims to unpack to ${commas(total)}, more ` +
          `than ${MAX_RATIO} times as much: weights do not compress like that`,
      );
    }
  }

  /** A file's bytes in pieces; the stream fails where there are more or fewer than declared, or
   * others than its checksum says. */
  async stream(path: string): Promise<ReadableStream<Uint8Array<ArrayBuffer>>> {
    const entry = this.entry(path);
    const header = await bytesOf(this.blob, entry.offset, 30);
    if (header.getUint32(0, true) !== LOCAL) throw damaged(`no header before ${path}`);
    const start = entry.offset + 30 + header.getUint16(26, true) + header.getUint16(28, true);
    if (start + entry.packedBytes > this.blob.size) throw damaged(`${path} is cut off`);
    const packed = this.blob.slice(start, start + entry.packedBytes).stream();
    const plain = entry.method === STORED
      ? packed : packed.pipeThrough(new DecompressionStream("deflate-raw"));
    return plain.pipeThrough(exactly(entry, path));
  }

  private entry(path: string): Entry {
    const entry = this.entries.get(path);
    if (!entry) throw bundleError(`${path} is missing in the zip`);
    return entry;
  }
}

/** Passes on as many bytes as there should be, with their checksum, and fails on others. */
function exactly(
  { bytes, crc32 }: Entry, path: string,
): TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>> {
  const crc = new Crc32();
  let total = 0;
  return new TransformStream({
    transform(piece, controller) {
      total += piece.length;
      if (total > bytes) throw bundleError(`the zip's ${path} is longer than it says`);
      crc.update(piece);
      controller.enqueue(piece);
    },
    flush() {
      if (total < bytes) throw bundleError(`the zip's ${path} ends after ${commas(total)} bytes`);
      if (crc.value !== crc32) throw damaged(`the checksum of ${path} is wrong`);
    },
  });
}

/** All of a stream of `bytes` bytes; its own error where it fails, which a Response would hide. */
async function collect(stream: ReadableStream<Uint8Array>, bytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const found = new Uint8Array(bytes);
  const reader = stream.getReader();
  for (let at = 0; ; ) {
    const { done, value } = await reader.read();
    if (done) return found;
    found.set(value, at);
    at += value.length;
  }
}

interface RawEntry extends Entry {
  readonly flags: number;
  /** Unix file type, 0 where none is given. */
  readonly fileKind: number;
}

async function readDirectory(blob: Blob): Promise<RawEntry[]> {
  try {
    const { offset, bytes, count } = await findDirectory(blob);
    if (count > MAX_ENTRIES || bytes > MAX_DIRECTORY_BYTES) throw damaged("its directory is too large");
    return parseDirectory(await bytesOf(blob, offset, bytes), count);
  } catch (error) {
    if (error instanceof RangeError) throw damaged(messageOf(error)); // of a DataView
    throw error;
  }
}

/** The end record lies behind the directory, before a comment of up to 65535 bytes. */
async function findDirectory(blob: Blob): Promise<{ offset: number; bytes: number; count: number }> {
  const from = Math.max(0, blob.size - 22 - 0xffff);
  const tail = await bytesOf(blob, from, blob.size - from);
  for (let at = tail.byteLength - 22; at >= 0; at--) {
    if (tail.getUint32(at, true) !== END) continue;
    if (at >= 20 && tail.getUint32(at - 20, true) === LOCATOR64) {
      const record = await bytesOf(blob, size64(tail, at - 12), 56);
      if (record.getUint32(0, true) !== END64) throw damaged("no ZIP64 end record");
      return { count: size64(record, 32), bytes: size64(record, 40), offset: size64(record, 48) };
    }
    return {
      count: tail.getUint16(at + 10, true),
      bytes: tail.getUint32(at + 12, true),
      offset: tail.getUint32(at + 16, true),
    };
  }
  throw bundleError("the file is not a zip: expected a zipped bundle, such as NAME.flowship.zip");
}

function parseDirectory(view: DataView<ArrayBuffer>, count: number): RawEntry[] {
  const found: RawEntry[] = [];
  for (let at = 0; found.length < count; ) {
    if (view.getUint32(at, true) !== CENTRAL) throw damaged("its directory has fewer entries than it says");
    const nameLength = view.getUint16(at + 28, true);
    const extraLength = view.getUint16(at + 30, true);
    const flags = view.getUint16(at + 8, true);
    const raw = new Uint8Array(view.buffer, view.byteOffset + at + 46, nameLength);
    const sizes = wideSizes(view, at, at + 46 + nameLength, extraLength);
    found.push({
      // Without the UTF-8 flag it is code page 437; ASCII, all that a bundle may use, is the same.
      name: new TextDecoder(flags & 0x800 ? "utf-8" : "latin1").decode(raw),
      method: view.getUint16(at + 10, true),
      crc32: view.getUint32(at + 16, true),
      flags,
      fileKind: (view.getUint16(at + 40, true) & 0o170000),
      ...sizes,
    });
    at += 46 + nameLength + extraLength + view.getUint16(at + 32, true);
  }
  return found;
}

/** Sizes and offset of an entry, from its ZIP64 field where they have more than 32 bits. */
function wideSizes(view: DataView, at: number, extra: number, extraLength: number) {
  let bytes = view.getUint32(at + 24, true);
  let packedBytes = view.getUint32(at + 20, true);
  let offset = view.getUint32(at + 42, true);
  for (let field = extra; field + 4 <= extra + extraLength; ) {
    let value = field + 4;
    if (view.getUint16(field, true) === 1) {
      const next = () => size64(view, (value += 8) - 8);
      if (bytes === 0xffffffff) bytes = next();
      if (packedBytes === 0xffffffff) packedBytes = next();
      if (offset === 0xffffffff) offset = next();
    }
    field += 4 + view.getUint16(field + 2, true);
  }
  return { bytes, packedBytes, offset };
}

function checkedEntries(directory: readonly RawEntry[]): Map<string, Entry> {
  const all = directory.map((entry) => ({ ...entry, name: normalise(entry.name) }));
  const there = new Set(all.flatMap(({ name }) => withFolders(name)));
  const raw = all.filter(({ name }) => !isLitterName(name, (path) => there.has(path)));
  const prefix = findPrefix(raw.map(({ name }) => name));
  checkDistinct(raw.map(({ name }) => name).filter((name) => !name.endsWith("/")));
  const entries = new Map<string, Entry>();
  for (const entry of raw) {
    const { name } = entry;
    const isFolder = name.endsWith("/") || name === "";
    if (isFolder && prefix.startsWith(name)) continue;
    if (!name.startsWith(prefix)) {
      throw bundleError(
        `the zip has ${quote(name.slice(0, 80))} beside the bundle's folder ${quote(prefix)}`,
      );
    }
    const inner = name.slice(prefix.length).replace(/\/$/, "");
    checkRelative(inner);
    checkKind(inner, entry);
    if (!isFolder) entries.set(inner, entry);
  }
  return entries;
}

/** As the zip format wants it: PowerShell 5 and old .NET write backslashes, others `./`. */
function normalise(name: string): string {
  return name.replaceAll("\\", "/").split("/").filter((part) => part !== ".").join("/");
}

/** The paths that a name makes: of its folders, and of the file. */
function withFolders(name: string): string[] {
  const parts = name.length <= MAX_LITTER_LENGTH ? name.split("/") : [];
  return parts.map((_, i) => parts.slice(0, i + 1).join("/"));
}

/** The folder of the manifest with its slash: the top, a top folder, or else the only one. */
function findPrefix(names: readonly string[]): string {
  const folders = names
    .filter((name) => name === MANIFEST || name.endsWith(`/${MANIFEST}`))
    .map((name) => name.slice(0, -MANIFEST.length));
  const shallow = folders.filter((folder) => folder.split("/").length <= 2);
  const found = shallow.length > 0 ? shallow : folders;
  if (found.length !== 1) {
    throw bundleError(
      `the zip has ${found.length || "no"} ${MANIFEST} at its top or in a folder, expected exactly one`,
    );
  }
  const prefix = found[0];
  if (prefix.split("/").slice(0, -1).some((part) => part === "" || part === ".." || part.includes(":"))) {
    throw bundleError(`the zip has ${quote((prefix + MANIFEST).slice(0, 80))}, which points out of it`);
  }
  return prefix;
}

function checkKind(name: string, { flags, fileKind, method }: RawEntry): void {
  if (![0, FILE_KIND, FOLDER_KIND].includes(fileKind)) {
    throw bundleError(`the zip's ${name} is a link or a special file`);
  }
  if (flags & 1) throw bundleError(`the zip's ${name} is encrypted`);
  if (method !== STORED && method !== DEFLATED) {
    throw bundleError(`the zip's ${name} is packed by a method other than deflate`);
  }
}

function size64(view: DataView, at: number): number {
  const found = Number(view.getBigUint64(at, true));
  if (!Number.isSafeInteger(found)) throw damaged("a size has more than 53 bits");
  return found;
}

async function bytesOf(blob: Blob, offset: number, bytes: number): Promise<DataView<ArrayBuffer>> {
  if (offset + bytes > blob.size) throw damaged("it is cut off");
  return new DataView(await blob.slice(offset, offset + bytes).arrayBuffer());
}

function damaged(what: string): Error {
  return bundleError(`the zip is damaged: ${what}`);
}
