/** What the pages share: opening models one after another, and going on without the laptop. */

import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { FlowshipError } from "../src/core/errors";
import type { BrowserBackend, ModelInfo, OpenOptions } from "../src/engine/api";
import { Session } from "../src/ui/session";

const A = "a".repeat(64);
const B = "b".repeat(64);

/** A backend with two models, which fails where it is told to. */
class Fake {
  readonly opened: string[] = [];
  fail: ((id: string, options: OpenOptions) => Error | undefined) | undefined;
  held: Promise<void> | undefined;
  readonly store = { list: async () => [], importZip: vi.fn(), remove: vi.fn() };

  constructor(readonly kind: "browser" | "laptop") {}

  async listModels() {
    return [this.model("embedded", A), this.model(B, B)];
  }

  async open(id: string, options: OpenOptions = {}): Promise<ModelInfo> {
    await this.held;
    this.opened.push(`${id.slice(0, 8)} ${options.precision ?? "first"}`);
    const error = this.fail?.(id, options);
    if (error) throw error;
    return this.model(id, id === B ? B : A, options.precision);
  }

  async close(): Promise<void> {}

  private model(id: string, sha256: string, precision = "fp32"): ModelInfo {
    return { id, sha256, name: id, removable: id === B, precisions: ["fp32", "int8"], engineName: "onnx",
      engine: { name: "onnx", precision } } as unknown as ModelInfo;
  }
}

let said: string[];
let cured: string[];
const browser = () => new Fake("browser");
const start = (own: Fake, laptop: Fake | null = null) =>
  new Session(own as unknown as BrowserBackend, laptop as never, {
    say: (text) => void said.push(text), cured: (...causes) => void cured.push(...causes),
  });
const memory = () => {
  const kept = new Map<string, string>();
  return {
    kept, getItem: (key: string) => kept.get(key) ?? null, setItem: (key: string, value: string) => kept.set(key, value),
    removeItem: (key: string) => kept.delete(key),
  };
};

beforeEach(() => {
  said = [];
  cured = [];
  vi.stubGlobal("navigator", { hardwareConcurrency: 1 });
  vi.stubGlobal("localStorage", memory());
  vi.stubGlobal("sessionStorage", memory());
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
});
afterEach(() => vi.unstubAllGlobals());

const settled = (session: Session) => vi.waitFor(() => expect(session.busy).toBe(false));

it("opens the chosen precision, and after a reload what was open last", async () => {
  const own = browser();
  const session = start(own);
  await session.start();
  expect(session.model?.id).toBe("embedded");
  session.choose({ place: "browser", id: B, precision: "int8" });
  expect(session.choice).toMatchObject({ id: B, precision: "int8" });
  await settled(session);
  expect([session.model?.sha256, session.model?.engine.precision]).toEqual([B, "int8"]);

  const again = start(own);
  await again.start();
  expect([again.model?.sha256, again.model?.engine.precision]).toEqual([B, "int8"]);
  await again.use({ place: "browser", id: "embedded" });
  expect((localStorage as unknown as ReturnType<typeof memory>).kept.size).toBe(0);
});

it("opens the first model where the last one cannot be opened any more", async () => {
  localStorage.setItem("flowship-model", B);
  const own = browser();
  own.fail = (id) => (id === B ? new FlowshipError("bundle", "it is damaged") : undefined);
  const session = start(own);
  await session.start();
  expect([session.model?.id, said]).toEqual(["embedded", ["it is damaged"]]);
});

it("takes the last of several choices that are made while one is opened", async () => {
  const own = browser();
  const session = start(own);
  await session.start();
  let go = () => {};
  own.held = new Promise((resolve) => (go = resolve));
  for (const precision of ["int8", "fp32", "int8"]) session.choose({ place: "browser", id: A, precision });
  expect(session.choice.precision).toBe("int8");
  go();
  await settled(session);
  expect(own.opened).toEqual(["embedded first", "embedded int8", "embedded int8"]);
  expect(said).toEqual([]);
});

it("opens again what was open, where something else cannot be opened", async () => {
  const own = browser();
  const session = start(own);
  await session.start();
  own.fail = (id) => (id === B ? new FlowshipError("engine", "too large") : undefined);
  expect(await session.use({ place: "browser", id: B })).toBe(false);
  expect([session.model?.id, said]).toEqual(["embedded", ["too large"]]);
});

it("falls back to the browser where the laptop's engine wants another token", async () => {
  sessionStorage.setItem("flowship-token", "old");
  const [own, laptop] = [browser(), new Fake("laptop")];
  laptop.fail = () => new FlowshipError("token", "send a token");
  const session = start(own, laptop);
  await session.start();
  await settled(session);
  expect([session.place, session.model?.id, session.laptop]).toEqual(["browser", "embedded", null]);
  expect(said.join()).toMatch(/has a new token: open the address that it printed, in this tab too/);
  expect(sessionStorage.getItem("flowship-token")).toBeNull();

  const restarted = new Fake("laptop");
  session.connect(restarted as never);
  await settled(session);
  expect([session.place, session.backend]).toEqual(["laptop", restarted]);
});

it("offers what is kept in the browser while the laptop's engine is used, or does not answer", async () => {
  const [own, laptop] = [browser(), new Fake("laptop")];
  own.store.list = async () => [{ id: B }] as never;
  const session = start(own, laptop);
  const found = await session.offers();
  expect(found.offers.map(({ place, model }) => [place, model.id])).toEqual([
    ["laptop", "embedded"], ["laptop", B], ["browser", B],
  ]);
  laptop.listModels = () => Promise.reject(new FlowshipError("engine", "it does not answer"));
  const { offers, problem } = await session.offers();
  expect(offers.map(({ place }) => place)).toEqual(["browser"]);
  expect(problem).toMatchObject({ message: "it does not answer" });
});

it("takes errors away with their cause: the next task, and the end of the one that ran", async () => {
  const session = start(browser());
  let end!: () => void;
  const running = session.exclusive(() => new Promise<void>((resolve) => (end = resolve)));
  expect(cured).toEqual(["input", "task"]);
  await session.exclusive(async () => undefined);
  expect(said).toEqual(["Something is still running: wait, or cancel it."]);
  expect(cured).toEqual(["input", "task"]);
  end();
  await running;
  expect(cured).toEqual(["input", "task", "busy"]);
});
