/** The threads of the browser's engine: what may be chosen, and what was, kept in this browser. */

import { remember, remembered } from "./remembered";

const MOST = 16; // more bring nothing to windows of a few patches

/** null is "auto": as the engine thinks best for the model. */
export type Threads = number | null;

/** Powers of two up to the cores, and the cores; empty where the page is not cross-origin isolated,
 * without which browsers run WebAssembly in one thread. */
export function threadChoices(isolated: boolean, cores: number): Threads[] {
  if (!isolated) return [];
  const most = Math.min(cores, MOST);
  const counts = [1, 2, 4, 8, 16].filter((count) => count < most);
  return [null, ...counts, most];
}

export const ownThreadChoices = (): Threads[] =>
  threadChoices(globalThis.crossOriginIsolated, navigator.hardwareConcurrency || 1);

/** What was chosen here before; auto where that is not offered any more. */
export function chosenThreads(): Threads {
  const found = Number(remembered("threads"));
  return ownThreadChoices().includes(found) ? found : null;
}

export const rememberThreads = (threads: Threads): void =>
  remember("threads", threads === null ? null : String(threads));
