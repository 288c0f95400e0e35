/** Registers the service worker and takes updates when the user says so. */

import type { App } from "./app";
import { noteRequest } from "./requests";

export async function installServiceWorker(app: App): Promise<void> {
  // The development server changes files all the time; a secure context is needed by the platform.
  if (!("serviceWorker" in navigator) || import.meta.env.DEV) return;
  let wanted = false;
  navigator.serviceWorker.addEventListener("controllerchange", () => {
    if (wanted) location.reload();
  });
  // No observer sees the request for the worker's own script.
  noteRequest({ url: new URL("./sw.js", document.baseURI).href, from: "browser, for the service worker", time: Date.now() });
  const registration = await navigator.serviceWorker.register("./sw.js").catch((error: Error) => {
    app.say(`The app will not work offline: ${error.message}`, "other");
  });
  if (!registration) return;
  const offer = (worker: ServiceWorker | null) => {
    // Without a controller it is the first installation, which takes over by itself.
    if (worker?.state !== "installed" || !navigator.serviceWorker.controller) return;
    app.offerUpdate(() => {
      wanted = true;
      worker.postMessage("skip waiting");
    });
  };
  offer(registration.waiting);
  registration.addEventListener("updatefound", () => {
    const worker = registration.installing;
    worker?.addEventListener("statechange", () => offer(worker));
  });
}
