/** Privacy: every request that this page made, and that none left the origin. */

import { fill, h } from "../dom";
import { section } from "../parts";
import { blockedRequests, foreignRequests, onRequest, requests } from "../requests";

export class PrivacyPage {
  private readonly summary = h("p", { class: "number", role: "status" });
  private readonly rows = h("tbody", {});
  readonly element = h("div", { class: "stack" },
    section("Privacy", this.summary,
      h("p", {}, "Pictures, drawings, models and settings stay in this browser. The page may only talk to "
        + "the place it was loaded from (its Content-Security-Policy says so), and the list below is "
        + "everything it asked for. Switch the network off: it goes on working."),
      h("div", { class: "table", tabindex: 0, role: "region", "aria-label": "Requests" },
        h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Request"), h("th", { scope: "col" }, "Made by"))),
          this.rows))));

  constructor() {
    onRequest(() => this.element.isConnected && this.refresh());
  }

  refresh(): void {
    const seen = requests();
    const foreign = foreignRequests().length;
    fill(this.summary, h("strong", {}, foreign === 0 ? "None" : String(foreign)),
      ` of ${seen.length} requests left ${location.origin}`,
      blockedRequests().length > 0 && `; ${blockedRequests().length} were blocked`);
    const times = new Map<string, number>();
    for (const { url, from } of seen) {
      const row = JSON.stringify([url.replace(location.origin, "") || "/", from]);
      times.set(row, (times.get(row) ?? 0) + 1);
    }
    fill(this.rows, ...[...times].map(([row, count]) => {
      const [url, from] = JSON.parse(row) as [string, string];
      return h("tr", {}, h("td", {}, url), h("td", {}, count > 1 ? `${from}, ${count} times` : from));
    }));
  }
}
