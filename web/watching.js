// Tells the server that this page has our live view: it sends such a page no pictures for the host's own.
import { api } from "../../scripts/api.js";

// A server that was started anew has forgotten it.
export function announce() {
  let told = null;
  const tell = () => {
    if (!api.clientId || api.clientId === told) return;
    told = api.clientId;
    api.fetchApi("/dummyforcing/watch", { method: "POST", body: JSON.stringify({ client: told }) }).catch(() => (told = null));
  };
  api.addEventListener("status", tell); // the first one brings the page's name
  api.addEventListener("reconnected", () => {
    told = null;
    tell();
  });
  tell();
}
