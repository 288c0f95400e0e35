/** What of the models that bundles may hold this program can run. */

import { FlowshipError, usageError } from "./errors";
import { type Manifest, stepArtifact } from "./manifest";
import { arBlocks, type FlowSpec } from "./spec";

/** Precisions of the engine onnx that have a graph for every block, in the order of the artifacts.
 * @throws FlowshipError there is none, or the model is of a kind that does not run here. */
export function runnablePrecisions(manifest: Manifest): readonly string[] {
  checkSpec(manifest.spec);
  const there = new Set(manifest.artifacts.filter((a) => a.engine === "onnx").map((a) => a.precision));
  const blocks = arBlocks(manifest.spec);
  const found = [...there].filter((precision) => blocks.every((b) => stepArtifact(manifest, precision, b.name, 1)));
  if (found.length > 0) return found;
  if (there.size === 0) throw usageError(`the bundle ${manifest.name} has nothing for the engine onnx`);
  throw usageError(
    `the bundle ${manifest.name} has no graphs of the form gqa for onnx, the only one that runs in browsers: `
      + "export it with --onnx-form gqa",
  );
}

function checkSpec(spec: FlowSpec): void {
  const channels = spec.image.inChannels;
  if (channels !== 1 && channels !== 3) {
    throw new FlowshipError("engine", `pictures of ${channels} channels cannot be shown: expected 1 or 3`);
  }
  for (const stage of spec.stages) {
    if (stage.kind !== "ar_block" || stage.shift !== "copy_first" || stage.scale === "softplus") {
      throw new FlowshipError("engine", `${stage.name} is of a kind that does not run in the browser yet`);
    }
  }
}
