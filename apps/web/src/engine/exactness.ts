/** Whether windows make the pictures of sequential sampling, as this engine and precision round. The same rules as
 * runtime/exactness.py, which explains them. */

import { type Plan, SEQUENTIAL } from "../core/plan";
import type { GenerateRequest } from "./api";
import type { Flow } from "./flow";

const MIN_EQUAL = 0.999; // what windowed sampling promises
const MAX_LEVELS = 1;
const TRIES = 2; // windows of a block that are tried before it stays sequential
const GUIDANCE = 2;

export type Windows = Readonly<Record<string, number>>;

/** 8-bit values of windowed pictures against those of sequential sampling. */
export interface Difference {
  /** Share of the values that are equal. */
  readonly equal: number;
  /** The largest difference, of 255. */
  readonly levels: number;
}

export const passes = ({ equal, levels }: Difference): boolean => equal >= MIN_EQUAL && levels <= MAX_LEVELS;

/** The best windows by stage that pass together; a stage for which none does is left out.
 * @param compare Makes pictures with windows by stage.
 * @param wanted Windows of each stage, the best first. */
export async function exactWindows(
  compare: (windows: Windows) => Promise<Difference>, wanted: ReadonlyMap<string, readonly number[]>,
): Promise<Windows> {
  const chosen = new Map([...wanted].filter(([, windows]) => windows.length > 0).map(([stage, w]) => [stage, w[0]]));
  const together = async () => passes(await compare(Object.fromEntries(chosen)));
  if (chosen.size === 0 || await together()) return Object.fromEntries(chosen);
  const alone = new Map<string, Difference>();
  for (const stage of [...chosen.keys()]) {
    let passed = false;
    for (const window of wanted.get(stage)!.slice(0, TRIES)) {
      const found = await compare({ [stage]: window });
      chosen.set(stage, window);
      alone.set(stage, found);
      passed = passes(found);
      if (passed) break;
    }
    if (!passed) chosen.delete(stage);
  }
  while (chosen.size > 0 && !(await together())) { // small differences add up
    chosen.delete([...chosen.keys()].reduce((a, b) => (worse(alone.get(b)!, alone.get(a)!) ? b : a)));
  }
  return Object.fromEntries(chosen);
}

const worse = (a: Difference, b: Difference): boolean =>
  a.levels > b.levels || (a.levels === b.levels && a.equal < b.equal);

/** Pictures of one kind by sequential sampling, made once, to compare windowed ones with. */
export class SequentialPictures {
  private readonly found = new Map<string, Difference>();
  private sequential: Promise<Uint8Array[]> | null = null;

  constructor(
    private readonly flow: Flow, private readonly guided: boolean, private readonly count: number,
    private readonly signal?: AbortSignal,
  ) {}

  async compare(windows: Windows): Promise<Difference> {
    const key = JSON.stringify(Object.entries(windows).sort());
    let difference = this.found.get(key);
    if (!difference) {
      this.sequential ??= this.make({});
      difference = differenceOf(await this.make(windows), await this.sequential);
      this.found.set(key, difference);
    }
    return difference;
  }

  private async make(windows: Windows): Promise<Uint8Array[]> {
    const { spec } = this.flow;
    const plan: Plan = { ...SEQUENTIAL, windows, guidedWindows: windows, tolerance: this.flow.plan.tolerance };
    // Without classes the branches differ in the attention temperature.
    const guidance = spec.numClasses ? { guidance: GUIDANCE } : { guidance: 0.5, attnTemp: 0.7 };
    const made: Uint8Array[] = [];
    for (let seed = 0; seed < this.count; seed++) {
      const request: GenerateRequest = {
        seed: BigInt(seed), label: spec.numClasses ? seed % spec.numClasses : null, plan,
        ...(this.guided ? guidance : {}),
      };
      made.push(Uint8Array.from((await this.flow.generate(request, undefined, this.signal)).pixels.data));
    }
    return made;
  }
}

function differenceOf(found: readonly Uint8Array[], wanted: readonly Uint8Array[]): Difference {
  const off = found.flatMap((levels, i) => Array.from(levels, (value, at) => Math.abs(value - wanted[i][at])));
  return {
    equal: off.filter((value) => value === 0).length / off.length,
    levels: off.reduce((largest, value) => Math.max(largest, value), 0),
  };
}
