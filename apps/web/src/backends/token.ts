/** The token of `flowship serve`: it comes in the fragment of the address that the command prints, and is
 * kept for this tab. */

const KEY = "flowship-token";

/** Takes a token out of the address; true where there was one.
 * @param page Fragment that the address gets instead: a token should not stay in the history or in an
 *   address that is shared. */
export function takeToken(page = ""): boolean {
  const found = /^#token=([\w-]+)$/.exec(location.hash)?.[1];
  if (!found) return false;
  sessionStorage.setItem(KEY, found);
  history.replaceState(null, "", location.pathname + location.search + page);
  return true;
}

export const keptToken = (): string | null => sessionStorage.getItem(KEY);

/** The server that it was for has ended. */
export const dropToken = (): void => sessionStorage.removeItem(KEY);
