/** Asks the browser not to throw away what this page keeps when it needs room. */

export async function askToPersist(): Promise<boolean> {
  try {
    return (await navigator.storage.persisted()) || (await navigator.storage.persist());
  } catch {
    return false; // a browser without it, or a page without https
  }
}
