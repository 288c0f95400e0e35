/** Choices that are kept in this browser, where it keeps anything. */

const PREFIX = "flowship-";

export function remembered(name: string): string | null {
  try {
    return localStorage.getItem(PREFIX + name);
  } catch {
    return null; // some browsers refuse storage to private windows
  }
}

/** null forgets. */
export function remember(name: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, value);
  } catch {
    // It holds until the page is closed, no longer.
  }
}
