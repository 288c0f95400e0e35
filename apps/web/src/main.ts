/** Starts the app. */

import { connectLaptop } from "./backends/laptop";
import { openBrowserBackend } from "./engine/browser";
import { App } from "./ui/app";
import { watchRequests } from "./ui/requests";
import { installServiceWorker } from "./ui/service_worker";
import "./ui/styles.css";

watchRequests();
const app = new App(document.getElementById("app")!, openBrowserBackend(), await connectLaptop());
void installServiceWorker(app);
