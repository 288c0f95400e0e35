/** Privacy: what leaves this page, every request that it made, and that none left the origin. */

import { fill, h } from "../dom";
import { section } from "../parts";
import type { Row } from "../request_log";
import { onRequest, requests } from "../requests";
import type { Session } from "../session";
import { describePrivacy, describeWay } from "../travel";
import { formatBytes } from "../words";

export class PrivacyPage {
  private readonly summary = h("p", { class: "number", role: "status" });
  private readonly text = h("div", { class: "stacked" });
  private readonly rows = h("tbody", {});
  readonly element = h("div", { class: "stack" },
    section("Privacy", this.summary, this.text,
      h("div", { class: "table", tabindex: 0, role: "region", "aria-label": "Requests" },
        h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Request"), h("th", { scope: "col" }, "Made by"))),
          this.rows))));

  constructor(private readonly session: Session) {
    const refresh = () => this.element.isConnected && this.refresh();
    onRequest(refresh);
    session.watch(refresh);
  }

  refresh(): void {
    const { foreign, total, blocked, bytesSent } = requests;
    fill(this.summary, h("strong", {}, foreign === 0 ? "None" : String(foreign)),
      ` of ${total} requests left ${location.origin}`, blocked > 0 && `; ${blocked} were blocked`);
    const offline = Boolean(navigator.serviceWorker?.controller);
    const words = describePrivacy(this.session.place, location, { sent: bytesSent > 0, offline });
    fill(this.text, ...words.map((paragraph) => h("p", {}, paragraph)));
    fill(this.rows, ...requests.rows.map((row) =>
      h("tr", {}, h("td", {}, row.url.replace(location.origin, "") || "/"), h("td", {}, describeRow(row)))));
  }
}

function describeRow({ from, count, bytes, blocked }: Row): string {
  const words = [count > 1 ? `${from}, ${count} times` : from];
  if (bytes > 0) words.push(`${formatBytes(bytes)} sent ${describeWay(location)}`);
  if (blocked) words.push("blocked before it left");
  return words.join("; ");
}
