/** Starts the app. */

import { takeToken } from "./backends/token";
import { openBrowserBackend } from "./engine/browser";
import { App, connectLaptop } from "./ui/app";
import { watchRequests } from "./ui/requests";
import { installServiceWorker } from "./ui/service_worker";
import "./ui/styles.css";

watchRequests();
takeToken();
const app = new App(document.getElementById("app")!, openBrowserBackend(), await connectLaptop());
void installServiceWorker(app);
