/** CRC-32 as zips and PNGs have it. */

const TABLE = Int32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** Of data that comes in pieces. */
export class Crc32 {
  private state = -1;

  update(piece: Uint8Array): this {
    let crc = this.state;
    for (const byte of piece) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
    this.state = crc;
    return this;
  }

  get value(): number {
    return ~this.state >>> 0;
  }
}

export const crc32 = (data: Uint8Array): number => new Crc32().update(data).value;
