/** Pictures that were made, kept in this browser's IndexedDB and nowhere else. */

import type { Pixels } from "../engine/api";

export interface Kept {
  readonly id: number;
  readonly made: number;
  readonly pixels: Pixels;
  /** JSON of the recipe. */
  readonly recipe: string;
}

const [DATABASE, TABLE] = ["flowship-gallery", "pictures"];
let connection: Promise<IDBDatabase> | undefined;

export async function keep(pixels: Pixels, recipe: string): Promise<Kept> {
  const row = { made: Date.now(), pixels, recipe };
  const id = await request("readwrite", (table) => table.add(row));
  return { ...row, id: id as number };
}

/** Newest first. */
export async function kept(): Promise<Kept[]> {
  return ((await request("readonly", (table) => table.getAll())) as Kept[]).reverse();
}

export async function forget(id: number): Promise<void> {
  await request("readwrite", (table) => table.delete(id));
}

function open(): Promise<IDBDatabase> {
  connection ??= new Promise((resolve, reject) => {
    const asked = indexedDB.open(DATABASE, 1);
    asked.onupgradeneeded = () =>
      asked.result.createObjectStore(TABLE, { keyPath: "id", autoIncrement: true });
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
  return connection;
}

async function request(
  mode: IDBTransactionMode, ask: (table: IDBObjectStore) => IDBRequest,
): Promise<unknown> {
  const transaction = (await open()).transaction(TABLE, mode);
  const asked = ask(transaction.objectStore(TABLE));
  return new Promise((resolve, reject) => {
    // Only a complete transaction is on disk.
    transaction.oncomplete = () => resolve(asked.result);
    transaction.onabort = transaction.onerror = () => reject(transaction.error ?? asked.error);
  });
}
