/** The focus never falls to the page's top: what takes an element away says where the focus goes instead. */

/** Runs what may take away or hide the focused element inside `area`; then the focus goes to the first of
 * `others` that is there. */
export function keepFocus(area: Element, change: () => void, ...others: (HTMLElement | null | undefined)[]): void {
  const inside = area.contains(document.activeElement);
  change();
  if (inside && !isReachable(document.activeElement)) focusFirst(...others);
}

export function focusFirst(...elements: (HTMLElement | null | undefined)[]): void {
  const main = document.querySelector<HTMLElement>("main");
  for (const element of [...elements, main]) {
    if (!element?.isConnected || element === document.body) continue;
    element.focus({ preventScroll: true });
    if (document.activeElement === element) return;
  }
}

function isReachable(element: Element | null): boolean {
  return element !== null && element !== document.body && element.checkVisibility({ visibilityProperty: true });
}
