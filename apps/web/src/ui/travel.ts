/** Where pictures go, in words: nowhere, or to the laptop's engine, perhaps over a network that others read. */

import type { Place } from "./session";

const LOOPBACK = /^(localhost|127(\.\d+){3}|\[::1\])$/;

/** Of the page's address. */
export type Address = Pick<Location, "hostname" | "protocol">;

export const isThisMachine = ({ hostname }: Address): boolean => LOOPBACK.test(hostname);

/** The way from this page to where it was loaded from. */
export function describeWay(address: Address): string {
  if (isThisMachine(address)) return "to flowship serve on this computer";
  const kept = address.protocol === "https:" ? "encrypted" : "unencrypted";
  return `over the network to ${address.hostname}, ${kept}`;
}

/** One or two sentences for the page where the engine is chosen. */
export function describeEngine(place: Place, address: Address, connected: boolean, served: boolean): string {
  if (place === "laptop") {
    return `Seeds, and the pictures and drawings that you look into or morph, are sent ${describeWay(address)}.`;
  }
  const own = "Everything is computed here, and pictures stay in this browser.";
  if (connected) return own;
  return served
    ? `${own} For the laptop's engine, open the address that flowship serve printed, with its token.`
    : `${own} Start flowship serve on a laptop to use its native engine here.`;
}

/** What the page says about privacy, in paragraphs.
 * @param sent Whether anything was sent since the page was opened.
 * @param offline Whether the page goes on without a network. */
export function describePrivacy(
  place: Place, address: Address, { sent, offline }: { readonly sent: boolean; readonly offline: boolean },
): string[] {
  const policy = "The page may only talk to the place it was loaded from (its Content-Security-Policy says so), and "
    + "the list below is everything that it and its workers asked for. The browser itself adds the icons and the "
    + "app's manifest.";
  if (place !== "laptop") {
    const kept = "Pictures, drawings, models and settings stay in this browser.";
    const before = `The laptop's engine was used before: what the list marks as sent went ${describeWay(address)}.`;
    return [
      sent ? `${kept} ${before}` : kept,
      offline ? `${policy} Switch the network off: it goes on working.` : policy,
    ];
  }
  const unread = isThisMachine(address) || address.protocol === "https:"
    ? "" : " Whoever can listen in this network can see them.";
  return [
    "The laptop's engine is in use. Seeds, classes, and the pictures, drawings and latents that you look into or "
      + `morph are sent ${describeWay(address)}; the list marks what was sent.${unread} flowship serve keeps none of `
      + "them. The gallery, settings and models that you open here stay in this browser.",
    policy,
  ];
}
