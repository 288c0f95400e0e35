/** Bundles from strangers: hostile, damaged and lying zips are refused before anything of them is used. */

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { deflateRawSync } from "node:zlib";
import { beforeAll, describe, expect, it } from "vitest";
import { crc32 } from "../src/core/crc32";
import { Bundle, type FileSource } from "../src/core/bundle";
import { loadManifest, type Manifest, MANIFEST } from "../src/core/manifest";
import { BundleZip } from "../src/core/zip";
import { FlowshipError } from "../src/core/errors";
import { EMBEDDED } from "./embedded";
import { VECTORS } from "./vectors";

const GRAPH = "onnx/fp32/block0.gqa_b1.onnx";

interface Entry {
  name: string;
  data: Uint8Array;
  method?: number;
  flags?: number;
  mode?: number;
  /** What the directory says where it lies. */
  bytes?: number;
  crc?: number;
  /** What the packed bytes become. */
  damage?: (packed: Buffer) => void;
}

/** A zip as other programs write it. */
function zip(entries: readonly Entry[]): Uint8Array<ArrayBuffer> {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const entry of entries) {
    const { name, data, method = 8, flags = 0, mode = 0, bytes = data.length, crc = crc32(data) } = entry;
    const path = Buffer.from(name);
    const packed = method === 8 ? deflateRawSync(data) : Buffer.from(data);
    entry.damage?.(packed);
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(method, 8);
    local.writeUInt16LE(path.length, 26);
    parts.push(local, path, packed);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    central.writeUInt16LE(flags, 8);
    central.writeUInt16LE(method, 10);
    central.writeUInt32LE(crc, 16);
    central.writeUInt32LE(packed.length, 20);
    central.writeUInt32LE(bytes, 24);
    central.writeUInt16LE(path.length, 28);
    central.writeUInt32LE((mode << 16) >>> 0, 38);
    central.writeUInt32LE(offset, 42);
    directory.push(central, path);
    offset += local.length + path.length + packed.length;
  }
  const names = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(entries.length, 10);
  end.writeUInt32LE(names.length, 12);
  end.writeUInt32LE(offset, 16);
  return Uint8Array.from(Buffer.concat([...parts, names, end]));
}

const text = (value: string) => new TextEncoder().encode(value);
const open = (bytes: Uint8Array<ArrayBuffer>) => BundleZip.open(new Blob([bytes]));

/** Everything that an import does but for keeping the files. */
async function read(bytes: Uint8Array<ArrayBuffer>): Promise<Manifest> {
  const found = await open(bytes);
  const manifest = loadManifest(new TextDecoder().decode(await found.manifest()));
  found.checkSizes(manifest);
  const source: FileSource = {
    read: async (path) => new Uint8Array(await new Response(await found.stream(path)).arrayBuffer()),
  };
  const bundle = await Bundle.open({ ...source, read: async (path, max) => (
    path === MANIFEST ? found.manifest() : source.read(path, max)
  ) });
  for (const path of manifest.files.keys()) await bundle.file(path);
  return manifest;
}

let files: Entry[];
let small: Entry[]; // the same without the weights' bytes being compressed

beforeAll(async () => {
  const found = await readdir(EMBEDDED, { recursive: true, withFileTypes: true });
  const paths = found.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  files = await Promise.all(paths.map(async (path) => (
    { name: path.slice(EMBEDDED.length + 1), data: await readFile(path), method: 0 }
  )));
  small = files.filter(({ name }) => name === MANIFEST);
});

describe("a zipped bundle", () => {
  it.each(["", "mine.flowship/"])("opens below %j", async (prefix) => {
    const entries = files.map((file, i) => ({ ...file, name: prefix + file.name, method: i % 9 ? 0 : 8 }));
    entries.push({ name: "__MACOSX/._manifest.json", data: text("litter"), method: 0 });
    expect((await read(zip(entries))).name).toBe("fashion-mnist");
  });

  /** Names as other programs write them, and what Python makes of them. */
  it.each(VECTORS.zip_names as { names: string[]; inner: string[] | null }[])("has names %j as in Python", async ({ names, inner }) => {
    const made = zip(names.map((name) => ({ name, data: text("x"), method: 0, flags: 0x800 })));
    if (inner === null) await expect(open(made)).rejects.toThrow(FlowshipError);
    else expect([...(await open(made)).paths]).toEqual(inner);
  });

  it("opens as ZIP64", async () => {
    const { base64, inner } = VECTORS.zip64;
    const made = await open(Uint8Array.from(Buffer.from(base64, "base64")));
    expect([...made.paths]).toEqual(inner);
    expect(await new Response(await made.stream("onnx/x")).text()).toBe("what onnx/x holds");
  });

  it.each([
    ["UTF-8", (data: Uint8Array) => Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), data])],
    ["UTF-16", (data: Uint8Array) => Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.from(new TextDecoder().decode(data), "utf16le")])],
  ])("says that an editor changed its manifest to %s with a mark", async (_, mark) => {
    const made = await open(zip(files.map((file) => (file.name === MANIFEST ? { ...file, data: mark(file.data) } : file))));
    const data = await made.manifest();
    expect(() => Bundle.of(data, { read: () => Promise.reject(new Error()) })).toThrow(/begins with a byte order mark: an editor changed it/);
  });

  const added: [string, Partial<Entry> & { name: string }, RegExp][] = [
    ["a path above it", { name: "../evil" }, /is not allowed|beside the bundle's folder/],
    ["a path out of it", { name: "b/../../evil" }, /is not allowed/],
    ["an absolute path", { name: "/etc/passwd" }, /beside the bundle's folder/],
    ["a drive letter", { name: "b/C:/evil" }, /is not allowed/],
    ["a path out of it with backslashes", { name: "b\\..\\..\\evil" }, /is not allowed/],
    ["a file twice, with other slashes", { name: "b\\manifest.json" }, /has 2 manifest.json/],
    ["a device of Windows", { name: "b/con.txt" }, /Windows cannot store/],
    ["a link", { name: "b/link", mode: 0o120777 }, /link is a link or a special file/],
    ["an encrypted file", { name: "b/x", flags: 1 }, /is encrypted/],
    ["another method", { name: "b/x", method: 12 }, /other than deflate/],
    ["a name that differs in case", { name: "b/manifest.JSON" }, /same file on a disk that ignores case/],
    ["a second folder", { name: "other/x" }, /beside the bundle's folder/],
    ["a second manifest", { name: "manifest.json" }, /has 2 manifest.json/],
  ];
  it.each(added)("is refused with %s", async (_, entry, words) => {
    const entries = small.map((file) => ({ ...file, name: `b/${file.name}` }));
    await expect(open(zip([...entries, { data: text("x"), method: 0, ...entry }]))).rejects.toThrow(words);
  });

  it("is refused with a file that is not what the manifest says", async () => {
    const changed = files.map((file) => (
      file.name === GRAPH ? { ...file, data: file.data.map((byte, i) => (i === 99 ? byte ^ 1 : byte)) } : file
    ));
    await expect(read(zip(changed))).rejects.toThrow(/block0.gqa_b1.onnx has the sha256 .* it is damaged or was changed/);
  });

  it("is refused with a file that is missing, longer or shorter than it says", async () => {
    const with_ = (change: Partial<Entry>) => zip(files.map((file) => (file.name === GRAPH ? { ...file, ...change } : file)));
    await expect(read(zip(files.filter(({ name }) => name !== GRAPH)))).rejects.toThrow(`${GRAPH} is missing in the zip`);
    const { data } = files.find(({ name }) => name === GRAPH)!;
    const bytes = (more: number) => (data.length + more).toLocaleString("en-US");
    const longer = Buffer.concat([data, text("more")]);
    await expect(read(with_({ data: longer }))).rejects.toThrow(`has ${bytes(4)} bytes, expected ${bytes(0)}`);
    await expect(read(with_({ data: longer, method: 8, bytes: data.length }))).rejects.toThrow(/is longer than it says/);
    await expect(read(with_({ data: data.subarray(9), method: 8, bytes: data.length }))).rejects.toThrow(`ends after ${bytes(-9)} bytes`);
  });

  const damages: [string, Partial<Entry>, RegExp][] = [
    ["cannot be unpacked", { method: 8, damage: (packed) => packed.fill(0xff, 0, 9) }, /zip is damaged: manifest.json cannot be unpacked/],
    ["has another checksum", { crc: 1 }, /zip is damaged: the checksum of manifest.json is wrong/],
    ["has another byte", { method: 0, damage: (packed) => (packed[99] ^= 1) }, /the checksum of manifest.json is wrong/],
  ];
  it.each(damages)("is refused where its manifest %s", async (_, change, words) => {
    await expect(read(zip([{ ...small[0], ...change }]))).rejects.toThrow(words);
  });

  it("is refused where the checksum of another file is wrong", async () => {
    const changed = files.map((file) => (file.name === GRAPH ? { ...file, crc: 1 } : file));
    await expect(read(zip(changed))).rejects.toThrow(`the checksum of ${GRAPH} is wrong`);
  });

  it("is refused where it unpacks to far more than it is", async () => {
    const manifest = JSON.parse(new TextDecoder().decode(small[0].data));
    manifest.files["zeros.bin"] = { bytes: 5e9, sha256: "0".repeat(64) };
    const entries = files.filter(({ name }) => name !== MANIFEST);
    entries.push({ name: MANIFEST, data: text(JSON.stringify(manifest)) });
    // Only its directory claims the size, which is all that is looked at.
    const bomb = zip([...entries, { name: "zeros.bin", data: new Uint8Array(1e6), bytes: 4e9 }]);
    await expect(read(bomb)).rejects.toThrow(/zeros.bin has 4,000,000,000 bytes, expected 5,000,000,000/);
    manifest.files["zeros.bin"].bytes = 4e9;
    entries[entries.length - 1].data = text(JSON.stringify(manifest));
    const honest = zip([...entries, { name: "zeros.bin", data: new Uint8Array(1e6), bytes: 4e9 }]);
    await expect(read(honest)).rejects.toThrow(/claims to unpack to 4,01.* do not compress like that/);
  });

  it("is refused where it is cut off, anywhere", async () => {
    const whole = zip(small);
    for (let length = 0; length < whole.length; length += 97) {
      await expect(read(whole.slice(0, length))).rejects.toThrow(/not a zip|is damaged/);
    }
  });

  it("is refused or unchanged where a byte of its directory is another", async () => {
    const whole = zip(small);
    const expected = Buffer.from(small[0].data).toString();
    for (let at = whole.length - 22 - 46 - MANIFEST.length; at < whole.length; at++) {
      const changed = whole.slice();
      changed[at] ^= 0x55;
      const found = await open(changed).then((bundle) => bundle.manifest()).catch(() => null);
      if (found) expect(Buffer.from(found).toString()).toBe(expected);
    }
  });
});
