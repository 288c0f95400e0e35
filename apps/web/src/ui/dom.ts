/** Elements without a framework: the app has few, long-lived ones, which closures update in place. */

type Child = Node | string | null | undefined | false;
type Listener = (event: never) => unknown;
type Properties = Record<string, string | number | boolean | null | undefined | Listener>;

/** An element with attributes, `on...` listeners and children; text is never parsed as HTML. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Properties = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  apply(element, properties);
  element.append(...shown(children));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** A line drawing of 24 x 24 from path data; for screen readers it is not there. */
export function icon(paths: string): SVGSVGElement {
  const svg = document.createElementNS(SVG, "svg");
  for (const [name, value] of [["viewBox", "0 0 24 24"], ["aria-hidden", "true"], ["class", "icon"]]) {
    svg.setAttribute(name!, value!);
  }
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", paths);
  svg.append(path);
  return svg;
}

/** Replaces all children. */
export function fill(element: Element, ...children: Child[]): void {
  element.replaceChildren(...shown(children));
}

let lastId = 0;
/** An id for labels and descriptions. */
export const newId = (word: string) => `${word}-${++lastId}`;

function shown(children: Child[]): (Node | string)[] {
  return children.filter((c): c is Node | string => c !== null && c !== undefined && c !== false);
}

function apply(element: HTMLElement, properties: Properties): void {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") {
      element.addEventListener(name.slice(2), value as unknown as EventListener);
    } else {
      // The style attribute would be inline style, which the Content-Security-Policy refuses.
      if (name === "style") throw new TypeError("set styles in styles.css");
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
}
