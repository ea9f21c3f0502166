// Streaming Sampler: the newest chunk plays inside the node while the queue runs, and "Finish now" ends after it.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addElement, findNode } from "./graph.js";

const EVENT = "dummyforcing.chunk";
const NODE = "DummyForcingStreamingSampler";
const HEIGHT = 220;

app.registerExtension({
  name: "dummyforcing.live",
  setup() {
    api.addEventListener(EVENT, ({ detail }) => findNode(detail.node)?.dummyForcingLive?.show(detail));
    // The node shows its finished video itself.
    api.addEventListener("executed", ({ detail }) => findNode(detail?.node)?.dummyForcingLive?.close());
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) node.dummyForcingLive = liveView(node);
  },
});

function liveView(node) {
  const box = document.createElement("div");
  box.className = "dummyforcing-live";
  box.style.cssText = "flex-direction:column;gap:4px;font:12px sans-serif;color:#ccc";
  const stage = document.createElement("div");
  stage.style.cssText = "position:relative;flex:1;min-height:140px;background:#111;overflow:hidden;border-radius:4px";
  const video = document.createElement("video");
  // Out of the flow, so that a large picture does not stretch the node.
  video.style.cssText = "position:absolute;inset:0;width:100%;height:100%;object-fit:contain;image-rendering:auto";
  Object.assign(video, { muted: true, loop: true, autoplay: true, playsInline: true });
  stage.append(video);
  const line = document.createElement("div");
  line.setAttribute("aria-live", "polite");
  const button = document.createElement("button");
  button.textContent = "Finish now";
  button.title = "Ends after the current chunk; everything made so far goes on to the next nodes.";
  button.style.cssText = "padding:4px 8px;cursor:pointer";
  box.append(stage, line, button);
  const open = addElement(node, "dummyforcing_live", box, () => HEIGHT);
  const play = newestVideo(video);

  let running = null; // the server's name for this node while it samples
  button.onclick = async () => {
    button.disabled = true;
    const body = JSON.stringify({ node: running });
    const answer = await api.fetchApi("/dummyforcing/finish", { method: "POST", body });
    line.textContent = answer.ok ? "ends after this chunk" : "this run is over";
  };

  return {
    show(detail) {
      if (!detail.running) {
        running = null;
        button.disabled = true;
        return;
      }
      if (running === null) {
        running = detail.node;
        button.disabled = false;
        open(true);
      }
      const where = new URLSearchParams({ node: detail.node, chunk: detail.chunk });
      play(api.apiURL(`/dummyforcing/preview?${where}`));
      if (!button.disabled) line.textContent = summary(detail);
    },
    close() {
      running = null;
      play(null);
      open(false);
    },
  };
}

// Gives a video the newest source as soon as the one before it can be seen: chunks may come faster than it loads.
function newestVideo(video) {
  let next = null;
  const step = () => {
    if (next === null || (video.hasAttribute("src") && video.readyState < 2 && !video.error)) return;
    video.src = next;
    next = null;
  };
  video.addEventListener("loadeddata", () => setTimeout(step, 100));
  video.addEventListener("error", step);
  return (source) => {
    next = source;
    if (source === null) video.removeAttribute("src");
    else step();
  };
}

function summary({ chunk, chunks, fps, seconds_left, kv_mib, device_mib }) {
  const memory = device_mib ? `${gib(device_mib)} of VRAM, K/V ${gib(kv_mib)}` : `K/V ${gib(kv_mib)}`;
  return `chunk ${chunk} of ${chunks} · ${fps} FPS · ${clock(seconds_left)} left · ${memory}`;
}

const gib = (mib) => (mib < 1024 ? `${Math.round(mib)} MiB` : `${(mib / 1024).toFixed(1)} GiB`);
const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.round(seconds % 60)).padStart(2, "0")}`;
