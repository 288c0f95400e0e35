/** The model that the browser's engine had open last, to be opened again after a reload. */

import type { ModelInfo } from "../engine/api";
import { remember, remembered } from "./remembered";

export interface ModelChoice {
  readonly id: string;
  readonly precision?: string;
}

/** Null where it was the one that opens anyway. */
export function lastModel(): ModelChoice | null {
  const [id, precision] = (remembered("model") ?? "").split(" ");
  if (!id) return null;
  return precision ? { id, precision } : { id };
}

export function rememberModel({ id, removable, precisions, engine }: ModelInfo): void {
  const chosen = engine.precision === precisions[0] ? id : `${id} ${engine.precision}`;
  remember("model", removable || chosen !== id ? chosen : null);
}
