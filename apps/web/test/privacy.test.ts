/** What the page says about where things go, and its list of requests. */

import { describe, expect, it } from "vitest";
import { RequestLog } from "../src/ui/request_log";
import { describeEngine, describePrivacy, describeWay } from "../src/ui/travel";

const at = (address: string) => new URL(address);
const HERE = at("http://127.0.0.1:8765/");
const LAN = at("http://192.168.1.4:8765/");

describe("the way of what is sent", () => {
  it.each([
    ["http://127.0.0.1:8765/", "to flowship serve on this computer"],
    ["http://localhost/", "to flowship serve on this computer"],
    ["http://[::1]:8765/", "to flowship serve on this computer"],
    ["http://192.168.1.4:8765/", "over the network to 192.168.1.4, unencrypted"],
    ["http://127.0.0.1.example/", "over the network to 127.0.0.1.example, unencrypted"],
    ["https://studio.example/", "over the network to studio.example, encrypted"],
  ])("from %s", (address, words) => expect(describeWay(at(address))).toBe(words));
});

describe("the page about privacy", () => {
  const nothing = { sent: false, offline: false };

  it("says that all stays here only where it does", () => {
    const own = describePrivacy("browser", LAN, nothing).join(" ");
    expect(own).toContain("Pictures, drawings, models and settings stay in this browser.");
    expect(own).not.toMatch(/Switch the network off|was used before/);
    expect(describePrivacy("gpu", HERE, { sent: false, offline: true }).join(" ")).toContain("Switch the network off: it goes on working.");
    expect(describePrivacy("browser", LAN, { sent: true, offline: false }).join(" ")).toContain(
      "The laptop's engine was used before: what the list marks as sent went over the network to 192.168.1.4, unencrypted.",
    );
  });

  it("says what goes to the laptop, and how", () => {
    const here = describePrivacy("laptop", HERE, nothing).join(" ");
    expect(here).toContain("are sent to flowship serve on this computer; the list marks what was sent.");
    const there = describePrivacy("laptop", LAN, { sent: true, offline: true }).join(" ");
    expect(there).toContain("are sent over the network to 192.168.1.4, unencrypted;");
    expect(there).toContain("unencrypted; the list marks what was sent. Whoever can listen in this network can see them.");
    for (const words of [here, there]) expect(words).not.toMatch(/Pictures, drawings, models and settings stay|goes on working/);
  });

  it("and the choice of the engine agree", () => {
    expect(describeEngine("laptop", LAN, true, true)).toContain("are sent over the network to 192.168.1.4, unencrypted.");
    expect(describeEngine("browser", HERE, false, true)).toContain("open the address that flowship serve printed, with its token");
    expect(describeEngine("browser", HERE, false, false)).toContain("Start flowship serve on a laptop");
    expect(describeEngine("browser", HERE, true, false)).toBe("Everything is computed here, and pictures stay in this browser.");
  });
});

describe("the list of requests", () => {
  const ORIGIN = "http://127.0.0.1:8765";
  const seen = (url: string, blocked?: boolean) => ({ url, from: "page" as const, time: 0, ...(blocked ? { blocked } : {}) });

  it.each([[["request", "violation"]], [["violation", "request"]]])("does not count what was stopped: %s", (order) => {
    const log = new RequestLog(ORIGIN);
    log.add(seen(`${ORIGIN}/`));
    for (const what of order) log.add(seen("https://evil.example/x#y", what === "violation"));
    log.add(seen("blob:http://127.0.0.1:8765/1"));
    expect([log.total, log.foreign, log.blocked]).toEqual([2, 0, 1]);
    expect(log.rows.find(({ url }) => url.includes("evil"))).toMatchObject({ blocked: true });
    log.add(seen("https://elsewhere.example/"));
    expect([log.total, log.foreign]).toEqual([3, 1]);
  });

  it("has what was stopped before it was a request", () => {
    const log = new RequestLog(ORIGIN);
    log.add(seen("https://evil.example/x", true));
    expect([log.total, log.foreign]).toEqual([0, 0]);
    expect(log.rows).toEqual([{ url: "https://evil.example/x", from: "page", count: 1, bytes: 0, blocked: true }]);
  });

  it("counts what was sent with its address", () => {
    const log = new RequestLog(ORIGIN);
    log.add(seen(`${ORIGIN}/api/score`));
    log.add({ ...seen(`${ORIGIN}/api/score`), from: "engine" });
    log.add(seen(`${ORIGIN}/api/score`));
    log.send(`${ORIGIN}/api/score`, 1000);
    log.send(`${ORIGIN}/api/score`, 500);
    expect(log.bytesSent).toBe(1500);
    expect(log.rows).toEqual([
      { url: `${ORIGIN}/api/score`, from: "page", count: 2, bytes: 1500, blocked: false },
      { url: `${ORIGIN}/api/score`, from: "engine", count: 1, bytes: 0, blocked: false },
    ]);
  });
});
