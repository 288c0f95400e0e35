/** What manifest.json says was measured, and its golden values: nothing here uses them, but a bundle
 * that Python refuses for them is refused here too. */

import { bigInteger, type Decoder, type Fields, integer, list, map, number, oneOf, orNull, record, text } from "./schema";

export const engineName = oneOf("onnx", "executorch", "coreml");

/** Of the fields that bundles of earlier versions lack. */
function maybe(fields: Fields, decode: Decoder<unknown>, ...keys: readonly string[]): void {
  for (const key of keys) fields.getOr(key, orNull(decode), null);
}

export const decodeQuality: Decoder<void> = record((fields) => {
  fields.get("engine", engineName);
  fields.get("check", oneOf("full", "spot"));
  for (const key of ["precision", "checked_with", "inputs"]) fields.get(key, text);
  fields.get("max_abs_error", number);
  maybe(fields, number, "image_max_abs_error", "psnr_db", "psnr_db_median", "bits_per_dim", "bits_per_dim_change",
    "bits_per_dim_change_low", "bits_per_dim_change_high", "round_trip_error", "relative_error", "rms_error");
  maybe(fields, text, "bits_per_dim_inputs", "method");
  maybe(fields, bigInteger, "nbytes", "peak_memory_bytes");
  maybe(fields, map(map(text)), "formats");
});

/** Its pictures' paths, which have to be declared. */
export const decodeGolden: Decoder<readonly string[]> = record((fields) => {
  fields.get("noise_seed", bigInteger);
  fields.get("noise_sha256", text);
  return fields.getOr("pictures", list(decodePicture), []);
});

const decodePicture: Decoder<string> = record((fields) => {
  fields.get("engine", engineName);
  fields.get("precision", text);
  fields.get("seed", bigInteger);
  fields.get("label", orNull(integer));
  fields.get("guidance", number);
  return fields.get("path", text);
});
