/** Pictures that were made, kept in this browser's IndexedDB and nowhere else. Where a browser refuses
 * that, they are held until the page is closed. */

import type { Pixels } from "../engine/api";

export interface Kept {
  readonly id: number;
  readonly made: number;
  readonly pixels: Pixels;
  /** JSON of the recipe. */
  readonly recipe: string;
  /** The class's name in the model that made it; rows of earlier versions have none. */
  readonly className?: string | null;
}

const [DATABASE, TABLE] = ["flowship-gallery", "pictures"];
let connection: Promise<IDBDatabase> | undefined;
/** What the database did not take; their ids are negative. */
const held: Kept[] = [];

/** Whether all pictures are still there after the page was closed. */
export const isLasting = (): boolean => held.length === 0;

export async function keep(pixels: Pixels, recipe: string, className: string | null): Promise<Kept> {
  const row = { made: Date.now(), pixels, recipe, className };
  try {
    const id = await request("readwrite", (table) => table.add(row));
    return { ...row, id: id as number };
  } catch (error) {
    console.warn(error);
    const kept = { ...row, id: -1 - held.length };
    held.push(kept);
    return kept;
  }
}

/** Newest first. */
export async function kept(): Promise<Kept[]> {
  const rows = (await request("readonly", (table) => table.getAll()).catch(() => [])) as Kept[];
  return [...rows, ...held].reverse();
}

export async function forget(id: number): Promise<void> {
  const at = held.findIndex((one) => one.id === id);
  if (at >= 0) held.splice(at, 1);
  else await request("readwrite", (table) => table.delete(id));
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
